"""Log probabilities of blank and next label from token logits, and the gradient of all logits.

Both go through the valid cells in blocks of frames that fit the cache. So no tensor with a vocabulary axis
outlives its block, except the gradient itself, and padded cells cost nothing.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from maya.kernels import host
from maya.kernels.checks import Transcripts
from maya.kernels.precision import compute_dtype
from maya.kernels.slices import slices

# Elements of a block. CPU: 4 MiB of fp32, the fastest of 2**14 ... 2**22 for V of 500 and 1030. CUDA: a block
# costs launches, so there are few: 64 at B=16, S=250, U=60, V=32768, and 8000 with blocks as on the CPU.
BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}


def block_elements(x: Tensor) -> int:
    """Elements of a block of x."""
    return BLOCK_ELEMENTS["cuda" if x.is_cuda else "cpu"]


def gather_log_probs(logits: Tensor, transcripts: Transcripts, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """log softmax of logits (B, S, U+1, V) at blank and at the next label: two (B, S, U+1) of dtype `wide`.

    Both are 0 on padding.
    """
    blank = torch.zeros(logits.shape[:3], dtype=wide, device=logits.device)
    label = torch.zeros_like(blank)
    for row, part, width in _blocks(logits, transcripts):
        block = logits[row, part, :width].to(compute_dtype(logits.dtype))
        norm = torch.logsumexp(block, -1).to(wide)
        blank[row, part, :width] = block[..., transcripts.blank] - norm
        label_logits = block[:, :-1].gather(-1, _next_label(transcripts.targets[row], block))[..., 0]
        label[row, part, : width - 1] = label_logits - norm[:, :-1]
    return blank, label


def logits_gradient(
    logits: Tensor, transcripts: Transcripts, blank_mass: Tensor, label_mass: Tensor, scale: Tensor,
    clamp: float | None = None,
) -> Tensor:  # fmt: skip
    """scale * clip(mass * softmax(logits) - [blank] blank_mass - [next label] label_mass), as `logits`.

    blank_mass, label_mass: (B, S, U+1), posteriors of the arcs that leave each cell; `mass` is their sum.
    scale: (B,), the incoming gradient. An utterance whose masses are all 0 gets exact zeros, whatever its
    logits.
    """
    grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    dtype = compute_dtype(logits.dtype)
    blank_mass, label_mass, scale = blank_mass.to(dtype), label_mass.to(dtype), scale.to(dtype)
    mass = blank_mass + label_mass
    massless = (mass == 0).flatten(1).all(1)  # nan counts as mass
    # A device is not waited for: there, the gradient of a row without mass is computed and overwritten.
    skipped = massless.tolist() if host.reads_freely(massless) else [False] * len(massless)
    direct = grad.dtype == dtype  # otherwise the block is computed in fp32 and rounded once
    for row, part, width in _blocks(logits, transcripts):
        if skipped[row]:
            continue
        target = grad[row, part, :width]
        block = target if direct else torch.empty_like(target, dtype=dtype)
        torch.softmax(logits[row, part, :width].to(dtype), -1, out=block)
        block.mul_(mass[row, part, :width, None])
        block[..., transcripts.blank] -= blank_mass[row, part, :width]
        index = _next_label(transcripts.targets[row], block)
        block[:, :-1].scatter_add_(-1, index, -label_mass[row, part, : width - 1, None])
        if clamp is not None:
            block.clamp_(-clamp, clamp)
        torch.mul(block, scale[row], out=target)
        if not host.reads_freely(massless):
            target.masked_fill_(massless[row], 0.0)
    return grad


def _blocks(logits: Tensor, transcripts: Transcripts) -> Iterator[tuple[int, slice, int]]:
    """(row, frames, valid label positions) of blocks that cover the valid cells."""
    for row, (t, u) in enumerate(zip(transcripts.frames, transcripts.labels, strict=True)):
        for part in slices(t, block_elements(logits) // ((u + 1) * logits.shape[3])):
            yield row, part, u + 1


def _next_label(targets: Tensor, block: Tensor) -> Tensor:
    """Targets (U,) of a row as an index (frames, labels, 1) into a block (frames, labels + 1, V)."""
    n, width = block.shape[:2]
    return targets[None, : width - 1, None].expand(n, width - 1, 1)
