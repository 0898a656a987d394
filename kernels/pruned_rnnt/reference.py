"""Pruned RNN-T by its definitions (Kuang et al. 2022, arXiv 2206.13236): the truth for the fast forms.

All tensors are computed in full, and paths are summed node by node. Differentiable; meant for fp64.
"""

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.lattice.reference import impossible, lattice_log_prob, next_labels
from maya.kernels.pruned_rnnt.arcs import ArcRules, arc_weights
from maya.kernels.pruned_rnnt.simple import Smoothing


def simple_loss_reference(
    am: Tensor, lm: Tensor, transcripts: Transcripts, smoothing: Smoothing, rules: ArcRules
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) losses and the occupations of labels and blanks, (B, S, U+1); am, lm as for `simple_rnnt_loss`."""
    blank, label = arc_weights(*_smoothed(am, lm, transcripts, smoothing), transcripts.frames, rules)
    # Occupations are the derivatives of log P by the weights, which are detached for them.
    with torch.enable_grad():
        leaves = blank.detach().requires_grad_(), label.detach().requires_grad_()
        total = _losses(*leaves, transcripts, rules).sum()
        blank_grad, label_grad = torch.autograd.grad(total, leaves, materialize_grads=True)
    return _losses(blank, label, transcripts, rules), -label_grad, -blank_grad


def pruned_loss_reference(
    logits: Tensor, transcripts: Transcripts, ranges: Tensor, rules: ArcRules
) -> Tensor:
    """(B,) losses; logits and ranges as for `pruned_rnnt_loss`."""
    batch, size, _ = ranges.shape
    frames, labels = (torch.tensor(x, device=ranges.device) for x in (transcripts.frames, transcripts.labels))
    used = torch.arange(size, device=ranges.device) < frames[:, None]
    used = used[..., None] & (ranges <= labels[:, None, None])
    log_probs = logits.where(used[..., None], 0.0).log_softmax(-1)  # padding may hold anything
    next_label = next_labels(transcripts.targets)[:, None].expand(-1, size, -1).gather(2, ranges)
    outside = log_probs.new_full((batch, size, transcripts.targets.shape[1] + 1), float("-inf"))
    blank, label = (
        outside.scatter(2, ranges, log_probs.gather(3, column[..., None])[..., 0])
        for column in (torch.full_like(ranges, transcripts.blank), next_label)
    )
    return _losses(*arc_weights(blank, label, transcripts.frames, rules), transcripts, rules)


def prune_ranges_reference(
    px_occupation: Tensor, py_occupation: Tensor, frames: list[int], labels: list[int], window: int,
    rules: ArcRules,
) -> Tensor:  # fmt: skip
    """First label position of each frame's window, (B, S), computed frame by frame; `window` is final."""
    batch, size, width = px_occupation.shape
    step = window - 1 if rules.rnnt_type == "regular" else 1
    starts = torch.zeros(batch, size, dtype=torch.int64)
    for b in range(batch):
        last = max(0, labels[b] - window + 1)
        best = []
        for t in range(size):
            scores = []
            for first in range(width - window + 1):
                blank_mass = sum(float(py_occupation[b, t, u]) for u in range(first, first + window))
                scores.append(blank_mass - (float(px_occupation[b, t, first - 1]) if first else 0.0))
            best.append(scores.index(max(scores)) if t < frames[b] - 1 else last)
        for t in range(size - 2, -1, -1):  # a window never moves back
            best[t] = max(min(best[t], best[t + 1]), 0)
        for t in range(size - 2, -1, -1):  # and is never too late to reach the next frame's window
            best[t] = max(best[t], best[t + 1] - step)
        for t in range(size):  # it starts at 0 and moves no faster than `step`
            best[t] = min(best[t], best[t - 1] + step) if t else 0
        starts[b] = torch.tensor(best)
    return starts


def _smoothed(
    am: Tensor, lm: Tensor, transcripts: Transcripts, smoothing: Smoothing
) -> tuple[Tensor, Tensor]:
    """Log probabilities of blank and next label at every cell, (B, S, U+1) each."""
    frames, labels = (torch.tensor(x, device=am.device) for x in (transcripts.frames, transcripts.labels))
    frame_used = torch.arange(am.shape[1], device=am.device) < frames[:, None]
    state_used = torch.arange(lm.shape[1], device=lm.device) <= labels[:, None]
    am, lm = am.where(frame_used[..., None], 0.0), lm.where(state_used[..., None], 0.0)
    parts = [(smoothing.joint, am[:, :, None] + lm[:, None]), (smoothing.lm_only, lm[:, None])]
    if smoothing.am_only:
        unigram = lm.softmax(-1)[state_used].mean(0) + torch.finfo(lm.dtype).tiny
        parts.append((smoothing.am_only, (am + unigram.log())[:, :, None]))
    mixed = torch.stack(torch.broadcast_tensors(*(s * x.log_softmax(-1) for s, x in parts if s))).sum(0)
    shape = (am.shape[0], am.shape[1], lm.shape[1])
    mixed = mixed.expand(*shape, am.shape[2])
    label = mixed.gather(3, next_labels(transcripts.targets)[:, None, :, None].expand(*shape, 1))[..., 0]
    return mixed[..., transcripts.blank], label


def _losses(blank: Tensor, label: Tensor, transcripts: Transcripts, rules: ArcRules) -> Tensor:
    """(B,) losses from the weights of arcs, (B, S, U+1)."""
    label_ends = rules.rnnt_type != "regular"
    losses = []
    for b, (t, u) in enumerate(zip(transcripts.frames, transcripts.labels, strict=True)):
        arcs = {1: blank[b]}, {int(label_ends): label[b]}
        log_prob = lattice_log_prob(*arcs, t, u, label_ends=label_ends)
        losses.append(impossible(blank, label) if log_prob is None else -log_prob)
    return torch.stack(losses)
