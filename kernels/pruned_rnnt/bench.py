"""Benchmark of the pruned RNN-T loss with its joint: `python -m maya.kernels.bench pruned_rnnt`.

Windows of 5 label positions, where the lattice's posteriors put them. Fused, against what a user would
otherwise write: states gathered into windows, logits of the windows, and this project's loss of logits.
"""

import torch
from torch import Tensor

from maya.kernels.bench.measure import Form, Setting, loss_form
from maya.kernels.joint import JointSettings, OutputLayer, joint_scores
from maya.kernels.joint.bench import (
    fused_forms,
    in_fp64,
    leaves,
    materialised_bytes,
    materialised_cost,
    posteriors_of,
    problem,
)
from maya.kernels.joint.synthetic import FusedProblem
from maya.kernels.pruned_rnnt import fused_pruned_rnnt_loss, prune_ranges, pruned_rnnt_loss
from maya.kernels.pruned_rnnt.arcs import ArcRules
from maya.kernels.pruned_rnnt.pruned import rows_lattice, window_rows

S_RANGE = 5  # icefall's
FORM = "materialised windows, pruned_rnnt_loss"


def forms(setting: Setting) -> list[Form]:
    p = problem(setting)
    ranges = ranges_of(p)

    def fused(eps: float, backend: str) -> Tensor:
        return fused_pruned_rnnt_loss(
            p.f, p.g, p.weight, p.bias, p.targets, ranges, p.f_lens, p.target_lens,
            blank=p.blank, activation=p.activation, eps=eps, backend=backend,
        )  # fmt: skip

    rows = ranges.numel()
    return [
        *fused_forms(
            setting, p, fused_pruned_rnnt_loss, fused, rows=rows, kept=lambda eps: kept_rows(p, ranges, eps)
        ),
        loss_form(
            FORM,
            lambda: _from_logits(p, ranges, "auto"),
            leaves(p),
            needs_bytes=materialised_bytes(setting, rows, copies=2, wide_copies=0),
            cost=lambda: materialised_cost(setting, rows),
        ),
    ]


def reference(setting: Setting, *, exact: bool) -> Form:
    """Logits in the dtype of the setting or in fp64, then the loss by its definition under autograd."""
    p = problem(setting)
    ranges = ranges_of(p)  # those of the forms, also where fp64 would choose others
    if exact:
        p, ranges = in_fp64(p), ranges.cpu()
    return loss_form("reference", lambda: _from_logits(p, ranges, "reference"), leaves(p))


def ranges_of(p: FusedProblem) -> Tensor:
    """(B, S, R), by the posteriors of the full lattice: what a simple loss can find at best."""
    found = posteriors_of(p)
    assert found.blank is not None and found.label is not None
    return prune_ranges(found.label, found.blank, p.f_lens, p.target_lens, s_range=S_RANGE)


def kept_rows(p: FusedProblem, ranges: Tensor, eps: float) -> int:
    """Rows of the windows that the compacted backward works on."""
    lens = p.f_lens.tolist(), p.target_lens.tolist()
    with torch.no_grad():
        rows = window_rows(p.targets, ranges, *lens)
        layer, settings = OutputLayer(p.weight, p.bias), JointSettings(p.blank, p.activation)
        scores = joint_scores(p.f.flatten(0, 1), p.g.flatten(0, 1), layer, rows, settings)
        shape = p.f.shape[0], p.f.shape[1], p.g.shape[1]
        found = rows_lattice(scores, rows, shape, *lens, ArcRules(), with_posteriors=True, backend="torch")
    assert found.blank is not None and found.label is not None
    return int((found.blank + found.label > eps).sum())


def _from_logits(p: FusedProblem, ranges: Tensor, backend: str) -> Tensor:
    (batch, size, window), hidden = ranges.shape, p.g.shape[2]
    states = p.g.gather(1, ranges.view(batch, -1, 1).expand(-1, -1, hidden)).view(batch, size, window, hidden)
    h = torch.relu(p.f[:, :, None] + states)
    logits = torch.nn.functional.linear(h, p.weight, p.bias)
    return pruned_rnnt_loss(
        logits, p.targets, ranges, p.f_lens, p.target_lens, blank=p.blank, backend=backend
    )
