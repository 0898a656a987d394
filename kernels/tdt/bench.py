"""Benchmark of the TDT loss with its joint: `python -m maya.kernels.bench tdt`.

Fused, against logits of the whole lattice and this project's loss of logits (torchaudio has no TDT), and
against a fused form that does not drop rows from the backward.
"""

from torch import Tensor

from maya.kernels.bench.measure import Form, Setting, loss_form
from maya.kernels.joint.bench import (
    DURATIONS,
    fused_forms,
    in_fp64,
    kept_rows,
    leaves,
    logits_of,
    materialised_bytes,
    materialised_cost,
)
from maya.kernels.joint.bench import problem as joint_problem
from maya.kernels.joint.synthetic import FusedProblem
from maya.kernels.tdt import fused_tdt_loss, tdt_loss


def problem(setting: Setting) -> FusedProblem:
    return joint_problem(setting, DURATIONS)


def forms(setting: Setting) -> list[Form]:
    p = problem(setting)
    assert p.duration_weight is not None
    layer = (p.weight, p.bias, p.duration_weight, p.duration_bias)

    def fused(eps: float, backend: str) -> Tensor:
        return fused_tdt_loss(
            p.f, p.g, *layer, p.targets, p.f_lens, p.target_lens,
            durations=DURATIONS, blank=p.blank, activation=p.activation, eps=eps, backend=backend,
        )  # fmt: skip

    return [
        *fused_forms(
            setting, p, fused_tdt_loss, fused, rows=setting.rows, kept=lambda eps: kept_rows(p, eps)
        ),
        loss_form(
            "materialised, tdt_loss",
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
    tokens, durations = logits_of(p)
    assert durations is not None
    return tdt_loss(
        tokens, durations, p.targets, p.f_lens, p.target_lens,
        durations=DURATIONS, blank=p.blank, backend=backend,
    )  # fmt: skip
