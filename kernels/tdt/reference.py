"""TDT loss by its definition (Xu et al. 2023, arXiv 2304.06795), cell by cell: the truth for fast forms."""

import torch
from torch import Tensor

from maya.kernels.rnnt.reference import impossible, log_add


def tdt_loss_reference(
    token_logits: Tensor,
    duration_logits: Tensor,
    targets: Tensor,
    frames: list[int],
    labels: list[int],
    durations: tuple[int, ...],
    blank: int,
    sigma: float = 0.0,
) -> Tensor:
    """(B,) losses; arguments as `tdt_loss`, lengths as lists. Differentiable; slow; give it fp64."""
    return torch.stack(
        [
            _row(
                token_logits[b], duration_logits[b], targets[b], frames[b], labels[b], durations, blank, sigma
            )
            for b in range(token_logits.shape[0])
        ]
    )


def _row(
    token_logits: Tensor,
    duration_logits: Tensor,
    targets: Tensor,
    n_frames: int,
    n_labels: int,
    durations: tuple[int, ...],
    blank: int,
    sigma: float,
) -> Tensor:
    token = token_logits.log_softmax(-1) - sigma
    duration = duration_logits.log_softmax(-1)
    alpha: dict[tuple[int, int], Tensor | None] = {}
    for t in range(n_frames + 1):
        for u in range(n_labels + 1):
            terms = [token.new_zeros(())] if t == u == 0 else []
            for i, d in enumerate(durations):
                before = alpha.get((t - d, u))
                if d > 0 and before is not None and (t < n_frames or u == n_labels):
                    terms.append(before + token[t - d, u, blank] + duration[t - d, u, i])
                before = alpha.get((t - d, u - 1))
                if before is not None and t < n_frames:
                    terms.append(before + token[t - d, u - 1, targets[u - 1]] + duration[t - d, u - 1, i])
            alpha[t, u] = log_add(terms)
    end = alpha[n_frames, n_labels]
    if n_frames == 0 or end is None or end.item() == float("-inf"):
        return impossible(token_logits) + impossible(duration_logits)
    return -end
