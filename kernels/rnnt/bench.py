"""Benchmark of the RNN-T loss with its joint: `python -m maya.kernels.bench rnnt`.

The fused loss, with and without dropped rows, is compared with logits of the whole lattice and either
torchaudio's loss or this project's loss of logits.
"""

from torch import Tensor

from maya.kernels.bench.measure import Form, Setting, loss_form
from maya.kernels.bench.peers import torchaudio
from maya.kernels.joint.bench import fused_forms, logits_of, materialised_form, occupancy_of, problem
from maya.kernels.joint.synthetic import FusedProblem
from maya.kernels.rnnt import fused_rnnt_loss, rnnt_loss

TORCHAUDIO = "materialised, torchaudio"


def forms(setting: Setting) -> list[Form]:
    p = problem(setting)

    lens = [x.cpu() for x in (p.targets, p.f_lens, p.target_lens)]  # so that nothing waits

    def fused(eps: float, backend: str, form: str) -> Tensor:
        return fused_rnnt_loss(
            p.f, p.g, p.weight, p.bias, *lens,
            blank=p.blank, activation=p.activation, eps=eps, backend=backend, form=form,
        )  # fmt: skip

    return [
        *fused_forms(setting, p, fused_rnnt_loss, fused, lambda: occupancy_of(p)),
        _torchaudio(p, setting),
        materialised_form(
            "materialised, rnnt_loss", lambda: _from_logits(p, "auto"), p, setting, setting.rows
        ),
    ]


def reference(setting: Setting, *, exact: bool) -> Form:
    """Logits in the dtype of the setting or in fp64, then the loss by its definition under autograd."""
    p = problem(setting, exact=exact)
    return loss_form("reference", lambda: _from_logits(p, "reference"), p.leaves)


def _from_logits(p: FusedProblem, backend: str) -> Tensor:
    logits, _ = logits_of(p)
    return rnnt_loss(logits, p.targets, p.f_lens, p.target_lens, blank=p.blank, backend=backend)


def _torchaudio(p: FusedProblem, setting: Setting) -> Form:
    """torchaudio computes in fp32 and indexes with 32 bits."""
    functional, absent = torchaudio()
    if not absent and setting.rows * setting.vocab >= 2**31:
        absent = "more logits than its 32-bit indices reach"
    if absent:
        return Form(name=TORCHAUDIO, absent=absent)
    integers = [x.int() for x in (p.targets, p.f_lens, p.target_lens)]

    def loss() -> Tensor:
        logits = logits_of(p)[0].float()
        value: Tensor = functional.rnnt_loss(logits, *integers, blank=p.blank, reduction="none")
        return value

    copies = 0 if setting.dtype == "float32" else 1
    return materialised_form(
        TORCHAUDIO, loss, p, setting, setting.rows, copies=copies, fp32_copies=2, peer=True
    )
