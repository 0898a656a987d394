"""Pruned RNN-T by its definitions (Kuang et al. 2022, arXiv 2206.13236): the truth for the fast forms.

Every tensor is made in full and every path by a loop over cells; differentiable; give it fp64.
"""

import torch
from torch import Tensor

from maya.kernels.pruned_rnnt.arcs import ArcRules, arc_weights
from maya.kernels.pruned_rnnt.simple import Smoothing
from maya.kernels.rnnt.reference import impossible, log_add


def simple_loss_reference(
    am: Tensor,
    lm: Tensor,
    targets: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    blank: int,
    smoothing: Smoothing,
    rules: ArcRules,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) losses and both occupations (B, S, U+1); arguments as `simple_rnnt_loss`, lengths as lists."""
    scores = _smoothed(am, lm, targets, frames, labels, blank, smoothing)
    blank_weight, label_weight = arc_weights(*scores, frames, rules)
    # Occupations are the derivatives of log P by the weights, on leaves of their own.
    with torch.enable_grad():
        leaves = blank_weight.detach().requires_grad_(), label_weight.detach().requires_grad_()
        total = lattice_reference(*leaves, frames, labels, rules).sum()
        of_blank, of_label = torch.autograd.grad(total, leaves, materialize_grads=True)
    return lattice_reference(blank_weight, label_weight, frames, labels, rules), -of_label, -of_blank


def pruned_loss_reference(
    logits: Tensor,
    targets: Tensor,
    ranges: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    blank: int,
    rules: ArcRules,
) -> Tensor:
    """(B,) losses; arguments as `pruned_rnnt_loss`, lengths as lists."""
    batch, size, _ = ranges.shape
    device = ranges.device
    used = torch.arange(size, device=device) < torch.tensor(frames, device=device)[:, None]
    used = used[..., None] & (ranges <= torch.tensor(labels, device=device)[:, None, None])
    log_probs = logits.where(used[..., None], 0.0).log_softmax(-1)  # padding may hold anything
    next_label = torch.nn.functional.pad(targets, (0, 1))[:, None].expand(-1, size, -1).gather(2, ranges)
    outside = log_probs.new_full((batch, size, targets.shape[1] + 1), float("-inf"))
    of_blank, of_label = (
        outside.scatter(2, ranges, log_probs.gather(3, column[..., None])[..., 0])
        for column in (torch.full_like(ranges, blank), next_label)
    )
    return lattice_reference(*arc_weights(of_blank, of_label, frames, rules), frames, labels, rules)


def lattice_reference(
    blank: Tensor, label: Tensor, frames: list[int], labels: list[int], rules: ArcRules
) -> Tensor:
    """Minus the log of the sum over all paths, (B,), from the weights of arcs (B, S, U+1)."""
    return torch.stack([_row(blank[b], label[b], frames[b], labels[b], rules) for b in range(blank.shape[0])])


def prune_ranges_reference(
    px_occupation: Tensor,
    py_occupation: Tensor,
    frames: list[int],
    labels: list[int],
    window: int,
    rules: ArcRules,
) -> Tensor:
    """First label position of each frame's window, (B, S), found frame by frame; `window` is final."""
    batch, size, width = px_occupation.shape
    step = window - 1 if rules.rnnt_type == "regular" else 1
    found = torch.zeros(batch, size, dtype=torch.int64)
    for b in range(batch):
        last = max(0, labels[b] - window + 1)
        best = []
        for t in range(size):
            scores = []
            for first in range(width - window + 1):
                kept = sum(float(py_occupation[b, t, u]) for u in range(first, first + window))
                scores.append(kept - (float(px_occupation[b, t, first - 1]) if first else 0.0))
            best.append(scores.index(max(scores)) if t < frames[b] - 1 else last)
        for t in range(size - 2, -1, -1):  # never back, and never too late to reach the next frame's window
            best[t] = max(min(best[t], best[t + 1]), 0)
        for t in range(size - 2, -1, -1):
            best[t] = max(best[t], best[t + 1] - step)
        for t in range(size):  # from 0, never faster than `step`
            best[t] = min(best[t], best[t - 1] + step) if t else 0
        found[b] = torch.tensor(best)
    return found


def _smoothed(
    am: Tensor,
    lm: Tensor,
    targets: Tensor,
    frames: list[int],
    labels: list[int],
    blank: int,
    smoothing: Smoothing,
) -> tuple[Tensor, Tensor]:
    """Log probabilities of blank and next label at every cell, (B, S, U+1) each."""
    n_labels = torch.tensor(labels, device=lm.device)
    used = torch.arange(lm.shape[1], device=lm.device) <= n_labels[:, None]
    known = torch.arange(am.shape[1], device=am.device) < torch.tensor(frames, device=am.device)[:, None]
    lm, am = lm.where(used[..., None], 0.0), am.where(known[..., None], 0.0)
    parts = [(smoothing.joint, am[:, :, None] + lm[:, None]), (smoothing.lm_only, lm[:, None])]
    if smoothing.am_only:
        unigram = lm.softmax(-1)[used].mean(0) + torch.finfo(lm.dtype).tiny
        parts.append((smoothing.am_only, (am + unigram.log())[:, :, None]))
    mixed = torch.stack(torch.broadcast_tensors(*(s * x.log_softmax(-1) for s, x in parts if s))).sum(0)
    next_label = torch.nn.functional.pad(targets, (0, 1))[:, None, :, None]
    shape = (am.shape[0], am.shape[1], lm.shape[1], am.shape[2])
    mixed = mixed.expand(shape)
    of_label = mixed.gather(3, next_label.expand(*shape[:3], 1))[..., 0]
    return mixed[..., blank], of_label


def _row(blank: Tensor, label: Tensor, n_frames: int, n_labels: int, rules: ArcRules) -> Tensor:
    takes = 0 if rules.rnnt_type == "regular" else 1
    alpha: dict[tuple[int, int], Tensor | None] = {}
    for t in range(n_frames + 1 if n_frames else 0):
        for u in range(n_labels + 1):
            if t == n_frames and u < n_labels:
                continue  # the only node after the last frame is the end
            terms = [blank.new_zeros(())] if t == u == 0 else []
            before = alpha.get((t - 1, u))
            if before is not None:
                terms.append(before + blank[t - 1, u])
            before = alpha.get((t - takes, u - 1))
            if before is not None:
                terms.append(before + label[t - takes, u - 1])
            alpha[t, u] = log_add(terms)
    end = alpha.get((n_frames, n_labels))
    return impossible(blank) + impossible(label) if end is None else -end


__all__ = [
    "lattice_reference",
    "prune_ranges_reference",
    "pruned_loss_reference",
    "simple_loss_reference",
]
