"""Benchmark of the TDT loss with its joint: `python -m maya.kernels.bench tdt`.

The fused loss, with and without dropped rows, is compared with logits of the whole lattice and this project's
loss of logits. torchaudio has no TDT.
"""

from torch import Tensor

from maya.kernels.bench.measure import Form, Setting, loss_form
from maya.kernels.joint.bench import (
    DURATIONS,
    fused_forms,
    logits_of,
    materialised_form,
    occupancy_of,
    problem,
)
from maya.kernels.joint.synthetic import FusedProblem
from maya.kernels.tdt import fused_tdt_loss, tdt_loss


def forms(setting: Setting) -> list[Form]:
    p = problem(setting, DURATIONS)
    assert p.duration_weight is not None
    layer = (p.weight, p.bias, p.duration_weight, p.duration_bias)

    lens = [x.cpu() for x in (p.targets, p.f_lens, p.target_lens)]  # so that nothing waits

    def fused(eps: float, backend: str, form: str) -> Tensor:
        return fused_tdt_loss(
            p.f, p.g, *layer, *lens,
            durations=DURATIONS, blank=p.blank, activation=p.activation, eps=eps, backend=backend, form=form,
        )  # fmt: skip

    return [
        *fused_forms(setting, p, fused_tdt_loss, fused, lambda: occupancy_of(p)),
        materialised_form(
            "materialised, tdt_loss", lambda: _from_logits(p, "auto"), p, setting, setting.rows
        ),
    ]


def reference(setting: Setting, *, exact: bool) -> Form:
    """Logits in the dtype of the setting or in fp64, then the loss by its definition under autograd."""
    p = problem(setting, DURATIONS, exact=exact)
    return loss_form("reference", lambda: _from_logits(p, "reference"), p.leaves)


def _from_logits(p: FusedProblem, backend: str) -> Tensor:
    tokens, durations = logits_of(p)
    assert durations is not None
    return tdt_loss(
        tokens, durations, p.targets, p.f_lens, p.target_lens,
        durations=DURATIONS, blank=p.blank, backend=backend,
    )  # fmt: skip
