"""Benchmark of the RNN-T loss with its joint: `python -m maya.kernels.bench rnnt`.

Fused, against what a user would otherwise write: logits of the whole lattice and torchaudio's loss, or this
project's loss of logits; and against a fused form that does not drop rows from the backward.
"""

from torch import Tensor

from maya.kernels.bench.measure import Form, Setting, loss_form
from maya.kernels.bench.peers import torchaudio
from maya.kernels.joint.bench import (
    fused_forms,
    in_fp64,
    kept_rows,
    leaves,
    logits_of,
    materialised_bytes,
    materialised_cost,
    problem,
)
from maya.kernels.joint.synthetic import FusedProblem
from maya.kernels.rnnt import fused_rnnt_loss, rnnt_loss

TORCHAUDIO = "materialised, torchaudio"


def forms(setting: Setting) -> list[Form]:
    p = problem(setting)

    def fused(eps: float, backend: str) -> Tensor:
        return fused_rnnt_loss(
            p.f, p.g, p.weight, p.bias, p.targets, p.f_lens, p.target_lens,
            blank=p.blank, activation=p.activation, eps=eps, backend=backend,
        )  # fmt: skip

    return [
        *fused_forms(
            setting, p, fused_rnnt_loss, fused, rows=setting.rows, kept=lambda eps: kept_rows(p, eps)
        ),
        _torchaudio(p, setting),
        loss_form(
            "materialised, rnnt_loss",
            lambda: _from_logits(p, "auto"),
            leaves(p),
            needs_bytes=materialised_bytes(setting, setting.rows, copies=2, wide_copies=0),
            cost=lambda: materialised_cost(setting, setting.rows),
        ),
    ]


def reference(setting: Setting, *, exact: bool) -> Form:
    """Logits in the dtype of the setting or in fp64, then the loss by its definition under autograd."""
    p = in_fp64(problem(setting)) if exact else problem(setting)
    return loss_form("reference", lambda: _from_logits(p, "reference"), leaves(p))


def _from_logits(p: FusedProblem, backend: str) -> Tensor:
    logits, _ = logits_of(p)
    return rnnt_loss(logits, p.targets, p.f_lens, p.target_lens, blank=p.blank, backend=backend)


def _torchaudio(p: FusedProblem, setting: Setting) -> Form:
    """torchaudio computes in fp32 and indexes with 32 bits."""
    functional, absent = torchaudio()
    if absent:
        return Form(name=TORCHAUDIO, absent=absent)
    if setting.rows * setting.vocab >= 2**31:
        return Form(name=TORCHAUDIO, absent="more logits than its 32-bit indices reach")
    integers = [x.int() for x in (p.targets, p.f_lens, p.target_lens)]

    def loss() -> Tensor:
        found: Tensor = functional.rnnt_loss(
            logits_of(p)[0].float(), *integers, blank=p.blank, reduction="none"
        )
        return found

    return loss_form(
        TORCHAUDIO,
        loss,
        leaves(p),
        needs_bytes=materialised_bytes(
            setting, setting.rows, copies=0 if setting.dtype == "float32" else 1, wide_copies=2
        ),
        cost=lambda: materialised_cost(setting, setting.rows),
        peer=True,
    )
