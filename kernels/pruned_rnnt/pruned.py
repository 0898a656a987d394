"""The pruned loss: the full joint, but only on a window of label positions of each frame. See README.md."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.joint import RowCells, RowList, RowMasses, RowScores
from maya.kernels.lattice import NEG_INF
from maya.kernels.pruned_rnnt.arcs import ArcRules, run_lattice, score_masses
from maya.kernels.token_softmax import BLOCK_ELEMENTS, compute_dtype


class PrunedLoss(torch.autograd.Function):
    """Keeps the logits (by reference) and tensors without a vocabulary axis."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        ranges: Tensor,
        frames: list[int],
        labels: list[int],
        blank: int,
        rules: ArcRules,
        backend: str,
    ) -> Tensor:
        dtype = compute_dtype(logits.dtype)
        index, inside = _window_labels(targets, ranges, frames, labels)
        of_blank = logits.new_full(ranges.shape, NEG_INF, dtype=dtype)
        of_label = of_blank.clone()
        for row, part in _blocks(logits, frames):
            # Not less a logsumexp: its rounding, of a number as large as logits, would add up along a path.
            block = logits[row, part].log_softmax(-1, dtype=dtype)
            of_blank[row, part] = block[..., blank]
            of_label[row, part] = block.gather(-1, index[row, part, :, None])[..., 0]
        width = targets.shape[1] + 1
        of_blank, of_label = (_to_lattice(x, ranges, inside, width) for x in (of_blank, of_label))
        training = ctx.needs_input_grad[0]
        result = run_lattice(
            of_blank, of_label, frames, labels, rules, with_posteriors=training, backend=backend
        )
        if training:
            masses = (_from_lattice(x, ranges, inside).to(dtype) for x in score_masses(result, rules))
            ctx.save_for_backward(logits, index, *masses, result.log_prob)
            ctx.settings = frames, blank
        return (-result.log_prob).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, index, blank_mass, label_mass, log_prob = ctx.saved_tensors
        frames, blank = ctx.settings
        scale = grad_loss.masked_fill(log_prob == NEG_INF, 0.0)[:, None, None]
        blank_mass, label_mass = blank_mass * scale, label_mass * scale
        mass = blank_mass + label_mass
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for row, part in _blocks(logits, frames):
            block = logits[row, part].softmax(-1, dtype=mass.dtype).mul_(mass[row, part, :, None])
            block[..., blank] -= blank_mass[row, part]
            block.scatter_add_(-1, index[row, part, :, None], -label_mass[row, part, :, None])
            block.masked_fill_(mass[row, part, :, None] == 0, 0.0)  # whatever the logits were
            grad[row, part] = block.to(grad.dtype)
        return grad, *(None,) * 7


def window_rows(targets: Tensor, ranges: Tensor, frames: list[int], labels: list[int]) -> RowList:
    """The valid cells of all windows as rows of the joint."""
    index, inside = _window_labels(targets, ranges, frames, labels)
    size = ranges.shape[1]
    utterance, t, _ = inside.nonzero(as_tuple=True)
    position = ranges[inside]
    last = torch.tensor(labels, device=ranges.device)[utterance]
    return RowList(
        utterance=utterance,
        frame=utterance * size + t,
        state=utterance * (targets.shape[1] + 1) + position,
        label=index[inside].masked_fill_(position == last, -1),
    )


def rows_lattice(
    scores: RowScores,
    rows: RowList,
    shape: tuple[int, int, int],
    frames: list[int],
    labels: list[int],
    rules: ArcRules,
    *,
    with_posteriors: bool,
    backend: str,
) -> RowMasses:
    """Loss and masses of scored rows, which need not be all cells; shape: (B, S, U+1)."""
    cells = RowCells(rows, shape, backend)
    result = run_lattice(
        cells.scatter(scores.blank), cells.scatter(scores.label), frames, labels, rules,
        with_posteriors=with_posteriors, backend=backend,
    )  # fmt: skip
    dtype = scores.norm.dtype
    loss = (-result.log_prob).to(dtype)
    if not with_posteriors:
        return RowMasses(loss, result.log_prob)
    blank, label = (cells.gather(x, dtype) for x in score_masses(result, rules))
    return RowMasses(loss, result.log_prob, blank, label)


def _window_labels(
    targets: Tensor, ranges: Tensor, frames: list[int], labels: list[int]
) -> tuple[Tensor, Tensor]:
    """Of each window position, (B, S, R): the next label (any id where there is none); is it a cell?"""
    device = ranges.device
    n_frames, n_labels = torch.tensor(frames, device=device), torch.tensor(labels, device=device)
    t = torch.arange(ranges.shape[1], device=device)
    inside = (t < n_frames[:, None])[..., None] & (ranges <= n_labels[:, None, None])
    padded = torch.nn.functional.pad(targets, (0, 1))
    return padded[:, None].expand(-1, ranges.shape[1], -1).gather(2, ranges), inside


def _to_lattice(score: Tensor, ranges: Tensor, inside: Tensor, width: int) -> Tensor:
    """(B, S, U+1) with -inf at positions that no window holds."""
    outside = score.new_full((*score.shape[:2], width), NEG_INF)
    return outside.scatter_(2, ranges, score.masked_fill(~inside, NEG_INF))


def _from_lattice(mass: Tensor, ranges: Tensor, inside: Tensor) -> Tensor:
    return mass.gather(2, ranges).masked_fill_(~inside, 0.0)


def _blocks(logits: Tensor, frames: list[int]) -> Iterator[tuple[int, slice]]:
    """(row, frames) of blocks that cover the valid frames and fit the cache."""
    step = max(1, BLOCK_ELEMENTS // max(1, logits.shape[2] * logits.shape[3]))
    for row, t in enumerate(frames):
        for first in range(0, t, step):
            yield row, slice(first, min(first + step, t))
