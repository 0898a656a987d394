"""Transducer lattices by their definition, one node at a time. The losses' references are built on it."""

from itertools import product

import torch
from torch import Tensor


def lattice_log_prob(
    blank: dict[int, Tensor], label: dict[int, Tensor], frames: int, labels: int, *, label_ends: bool = False
) -> Tensor | None:
    """log of the sum over all paths of one utterance, or None if it has none. Differentiable; slow.

    blank, label: weights (S, U+1) of the arcs that leave each cell, by the number of frames that they take.
    label_ends: the last arc, which lands on (T, U), may be a label.
    """
    alpha: dict[tuple[int, int], Tensor | None] = {}
    for t, u in product(range(frames + 1 if frames else 0), range(labels + 1)):
        ends = t == frames
        if ends and u < labels:
            continue  # (T, U) is the only node after the last frame
        terms = [next(iter(blank.values())).new_zeros(())] if t == u == 0 else []
        arcs = [(t - d, u, weight) for d, weight in blank.items() if d > 0]
        if not ends or label_ends:
            arcs += [(t - d, u - 1, weight) for d, weight in label.items()]
        for i_t, i_u, weight in arcs:
            source = alpha.get((i_t, i_u))
            if source is not None:
                terms.append(source + weight[i_t, i_u])
        # Terms of -inf are dropped: an arc of probability 0 has no gradient.
        possible = [x for x in terms if x.item() != float("-inf")]
        alpha[t, u] = torch.logsumexp(torch.stack(possible), 0) if possible else None
    return alpha.get((frames, labels))


def impossible(*inputs: Tensor) -> Tensor:
    """An infinite loss with a gradient of zero for each of `inputs`."""
    return torch.stack([x[..., :0].sum() for x in inputs]).sum() + float("inf")


def next_labels(targets: Tensor) -> Tensor:
    """The label that leaves each position, (..., U+1); 0 after the last, where there is none."""
    return torch.nn.functional.pad(targets, (0, 1))
