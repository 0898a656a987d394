"""Transducer losses by listing every alignment, for T, U <= 4. They test the references.

An alignment is a row of counts over all arcs, so the loss is a matrix product and a logsumexp, which autograd
differentiates without any recursion that the tested code shares.
"""

import torch
from torch import Tensor

Arc = tuple[int, int, str, int]  # source frame, labels before, "blank" or "label", index of the duration


def alignments(
    frames: int, labels: int, blank_durations: list[int], label_durations: list[int], t: int = 0, u: int = 0
) -> list[list[Arc]]:
    """Every list of arcs from (t, u) that ends with a blank landing on `frames` after all labels."""
    paths = []
    for i, d in enumerate(blank_durations):
        if d > 0 and t + d == frames and u == labels:
            paths.append([(t, u, "blank", i)])
        elif d > 0 and t + d < frames:
            rest = alignments(frames, labels, blank_durations, label_durations, t + d, u)
            paths += [[(t, u, "blank", i), *path] for path in rest]
    for i, d in enumerate(label_durations):
        if u < labels and t + d < frames:
            rest = alignments(frames, labels, blank_durations, label_durations, t + d, u + 1)
            paths += [[(t, u, "label", i), *path] for path in rest]
    return paths


def rnnt(logits: Tensor, targets: Tensor, frames: int, labels: int, blank: int) -> Tensor:
    """RNN-T loss of one utterance: logits (S, U+1, V), targets (U,)."""
    paths = alignments(frames, labels, [1], [0])
    log_probs = logits.log_softmax(-1)
    return _loss(paths, lambda t, u, kind, i: log_probs[t, u, blank if kind == "blank" else targets[u]])


def tdt(
    token_logits: Tensor,
    duration_logits: Tensor,
    targets: Tensor,
    frames: int,
    labels: int,
    durations: list[int],
    blank: int,
    sigma: float,
) -> Tensor:
    """TDT loss of one utterance: token_logits (S, U+1, V), duration_logits (S, U+1, n), targets (U,)."""
    paths = alignments(frames, labels, durations, durations)
    token, duration = token_logits.log_softmax(-1) - sigma, duration_logits.log_softmax(-1)

    def weight(t: int, u: int, kind: str, i: int) -> Tensor:
        return token[t, u, blank if kind == "blank" else targets[u]] + duration[t, u, i]

    return _loss(paths, weight)


def _loss(paths: list[list[Arc]], weight) -> Tensor:  # type: ignore[no-untyped-def]
    if not paths:
        return torch.tensor(float("inf"), dtype=torch.float64)
    arcs = {arc: column for column, arc in enumerate(sorted({arc for path in paths for arc in path}))}
    used = torch.zeros(len(paths), len(arcs), dtype=torch.float64)
    for row, path in enumerate(paths):
        used[row, [arcs[arc] for arc in path]] = 1.0
    return -torch.logsumexp(used @ torch.stack([weight(*arc) for arc in arcs]), 0)
