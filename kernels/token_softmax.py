"""Log probabilities of blank and next label from token logits, and the gradient back to all logits.

Both walk the valid cells in blocks of frames small enough for the cache, so beside the gradient itself no
tensor with a vocabulary axis outlives its block, and padded cells cost nothing.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 20  # 4 MiB of fp32: best on CPU among 2**14 ... 2**22, for V of 500 and 1030


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, fp32 for everything else: the precision of a softmax and of a loss."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def gather_log_probs(
    logits: Tensor, targets: Tensor, frames: list[int], labels: list[int], blank: int, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """log softmax of `logits` (B, S, U+1, V) at blank and at the next label, (B, S, U+1), in dtype `wide`, 0
    on padding.
    """
    of_blank = torch.zeros(logits.shape[:3], dtype=wide, device=logits.device)
    of_label = torch.zeros_like(of_blank)
    for row, part, width in _blocks(logits, frames, labels):
        block = logits[row, part, :width].to(compute_dtype(logits.dtype))
        norm = torch.logsumexp(block, -1).to(wide)
        of_blank[row, part, :width] = block[..., blank] - norm
        chosen = block[:, :-1].gather(-1, _next_label(targets[row], block))[..., 0]
        of_label[row, part, : width - 1] = chosen - norm[:, :-1]
    return of_blank, of_label


def logits_gradient(
    logits: Tensor,
    targets: Tensor,
    frames: list[int],
    labels: list[int],
    blank: int,
    *,
    blank_mass: Tensor,
    label_mass: Tensor,
    scale: Tensor,
    clamp: float | None,
) -> Tensor:
    """scale * clip(mass * softmax(logits) - [blank] blank_mass - [next label] label_mass), as `logits`.

    `blank_mass` and `label_mass` (B, S, U+1) are the posteriors of the arcs that leave each cell, `mass`
    their sum; `scale` (B,) is the incoming gradient. Rows with 0 mass get exact zeros, whatever their logits.
    """
    grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    dtype = compute_dtype(logits.dtype)
    blank_mass, label_mass, scale = blank_mass.to(dtype), label_mass.to(dtype), scale.to(dtype)
    mass = blank_mass + label_mass
    alive = (mass != 0).flatten(1).any(1).tolist()  # nan counts as alive
    direct = grad.dtype == dtype  # else the block is made in fp32 and rounded once
    for row, part, width in _blocks(logits, frames, labels):
        if not alive[row]:
            continue
        here = grad[row, part, :width]
        block = here if direct else torch.empty_like(here, dtype=dtype)
        torch.softmax(logits[row, part, :width].to(dtype), -1, out=block)
        block.mul_(mass[row, part, :width, None])
        block[..., blank] -= blank_mass[row, part, :width]
        index = _next_label(targets[row], block)
        block[:, :-1].scatter_add_(-1, index, -label_mass[row, part, : width - 1, None])
        if clamp is not None:
            block.clamp_(-clamp, clamp)
        block.mul_(scale[row])
        if not direct:
            here.copy_(block)
    return grad


def _blocks(logits: Tensor, frames: list[int], labels: list[int]) -> Iterator[tuple[int, slice, int]]:
    """(row, frames, valid label positions) of blocks that cover the valid cells."""
    for row, (t, u) in enumerate(zip(frames, labels, strict=True)):
        step = max(1, BLOCK_ELEMENTS // ((u + 1) * logits.shape[3]))
        for first in range(0, t, step):
            yield row, slice(first, min(first + step, t)), u + 1


def _next_label(targets: Tensor, block: Tensor) -> Tensor:
    """(U,) targets of a row as an index (frames, labels, 1) into a block (frames, labels + 1, V)."""
    n, width = block.shape[:2]
    return targets[None, : width - 1, None].expand(n, width - 1, 1)
