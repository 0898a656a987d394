"""Benchmark of the pruned RNN-T loss with its joint: `python -m maya.kernels.bench pruned_rnnt`.

The windows hold 5 label positions and follow the posteriors of the lattice. The fused loss is compared with
states gathered into windows, logits of the windows, and this project's loss of logits.
"""

import torch
from torch import Tensor

from maya.kernels.bench.measure import Form, Setting, loss_form
from maya.kernels.joint import RowCells
from maya.kernels.joint.bench import fused_forms, materialised_form, posteriors_of, problem, row_scores
from maya.kernels.joint.synthetic import FusedProblem
from maya.kernels.pruned_rnnt import fused_pruned_rnnt_loss, prune_ranges, pruned_rnnt_loss
from maya.kernels.pruned_rnnt.arcs import ArcRules
from maya.kernels.pruned_rnnt.pruned import window_masses, window_rows

S_RANGE = 5  # icefall's


def forms(setting: Setting) -> list[Form]:
    p = problem(setting)
    ranges = ranges_of(p)

    def fused(eps: float, backend: str, form: str) -> Tensor:
        return fused_pruned_rnnt_loss(
            p.f, p.g, p.weight, p.bias, p.targets, ranges, p.f_lens, p.target_lens,
            blank=p.blank, activation=p.activation, eps=eps, backend=backend, form=form,
        )  # fmt: skip

    return [
        *fused_forms(setting, p, fused_pruned_rnnt_loss, fused, lambda: _occupancy(p, ranges)),
        materialised_form(
            "materialised windows, pruned_rnnt_loss", lambda: _from_logits(p, ranges, "auto"), p, setting,
            ranges.numel(),
        ),
    ]  # fmt: skip


def reference(setting: Setting, *, exact: bool) -> Form:
    """Logits in the dtype of the setting or in fp64, then the loss by its definition under autograd."""
    ranges = ranges_of(problem(setting))  # those of the forms, even if fp64 would give others
    p = problem(setting, exact=exact)
    ranges = ranges.to(p.f.device)
    return loss_form("reference", lambda: _from_logits(p, ranges, "reference"), p.leaves)


def ranges_of(p: FusedProblem) -> Tensor:
    """(B, S, R), from the posteriors of the full lattice, which a simple loss approximates."""
    result = posteriors_of(p)
    assert result.blank is not None and result.label is not None
    return prune_ranges(result.label, result.blank, p.f_lens, p.target_lens, s_range=S_RANGE)


def _occupancy(p: FusedProblem, ranges: Tensor) -> Tensor:
    """Blank and label mass of each row of the windows."""
    windows = window_rows(p.transcripts, ranges)
    cells = RowCells(windows.places, (p.f.shape[0], p.f.shape[1], p.g.shape[1]), "torch")
    masses = window_masses(
        row_scores(p, windows.rows), cells, windows.counted, p.transcripts, ArcRules(), with_posteriors=True
    )
    assert masses.blank is not None and masses.label is not None
    return masses.blank + masses.label


def _from_logits(p: FusedProblem, ranges: Tensor, backend: str) -> Tensor:
    (batch, size, window), hidden = ranges.shape, p.g.shape[2]
    states = p.g.gather(1, ranges.view(batch, -1, 1).expand(-1, -1, hidden)).view(batch, size, window, hidden)
    h = torch.relu(p.f[:, :, None] + states)
    logits = torch.nn.functional.linear(h, p.weight, p.bias)
    return pruned_rnnt_loss(
        logits, p.targets, ranges, p.f_lens, p.target_lens, blank=p.blank, backend=backend
    )
