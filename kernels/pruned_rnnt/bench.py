"""Benchmark of the pruned RNN-T loss with its joint: `python -m maya.kernels.bench pruned_rnnt`.

The windows are given, made of the full lattice's posteriors. Fused, against the logits of the windows and
this project's loss of logits, which is what icefall does with k2.
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

WINDOW = 5  # icefall's s_range


def forms(setting: Setting) -> list[Form]:
    p = problem(setting)
    ranges = ranges_of(p)
    rows = ranges.numel()

    def fused(eps: float, backend: str) -> Tensor:
        return fused_pruned_rnnt_loss(
            p.f, p.g, p.weight, p.bias, p.targets, ranges, p.f_lens, p.target_lens,
            blank=p.blank, activation=p.activation, eps=eps, backend=backend,
        )  # fmt: skip

    return [
        *fused_forms(
            setting, p, fused_pruned_rnnt_loss, fused, rows=rows, kept=lambda eps: kept_rows(p, ranges, eps)
        ),
        loss_form(
            "materialised, pruned_rnnt_loss",
            lambda: _from_logits(p, ranges, "auto"),
            leaves(p),
            needs_bytes=materialised_bytes(setting, rows, copies=2, wide_copies=0),
            cost=lambda: materialised_cost(setting, rows),
        ),
    ]


def reference(setting: Setting, *, exact: bool) -> Form:
    """Logits of the windows in the dtype of the setting or in fp64, then the loss by its definition."""
    given = problem(setting)
    ranges = ranges_of(given)  # the same for both, whatever their rounding
    p = in_fp64(given) if exact else given
    ranges = ranges.to(p.f.device)
    return loss_form("reference", lambda: _from_logits(p, ranges, "reference"), leaves(p))


def ranges_of(p: FusedProblem) -> Tensor:
    """(B, S, WINDOW) label positions that the full lattice finds likely."""
    found = posteriors_of(p)
    assert found.blank is not None and found.label is not None
    return prune_ranges(found.label, found.blank, p.f_lens, p.target_lens, s_range=WINDOW)


def kept_rows(p: FusedProblem, ranges: Tensor, eps: float) -> int:
    """Rows whose occupancy is above eps: those that the compacted backward works on."""
    frames, labels = p.f_lens.tolist(), p.target_lens.tolist()
    rows = window_rows(p.targets, ranges, frames, labels)
    with torch.no_grad():
        layer, settings = OutputLayer(p.weight, p.bias), JointSettings(p.blank, p.activation)
        scores = joint_scores(p.f.flatten(0, 1), p.g.flatten(0, 1), layer, rows, settings)
        shape = (*p.f.shape[:2], p.g.shape[1])
        found = rows_lattice(
            scores, rows, shape, frames, labels, ArcRules(), with_posteriors=True, backend="torch"
        )
    assert found.blank is not None and found.label is not None
    return int((found.blank + found.label > eps).sum())


def _from_logits(p: FusedProblem, ranges: Tensor, backend: str) -> Tensor:
    g = p.g[torch.arange(len(ranges), device=ranges.device)[:, None, None], ranges]  # (B, S, WINDOW, H)
    logits = torch.nn.functional.linear(torch.relu(p.f[:, :, None] + g), p.weight, p.bias)
    return pruned_rnnt_loss(
        logits, p.targets, ranges, p.f_lens, p.target_lens, blank=p.blank, backend=backend
    )
