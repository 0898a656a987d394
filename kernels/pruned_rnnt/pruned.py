"""The pruned loss: the full joint on a window of label positions of each frame. See README.md."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import Transcripts
from maya.kernels.joint import RowCells, RowList, RowMasses, RowScores
from maya.kernels.lattice.reference import next_labels
from maya.kernels.precision import NEG_INF, compute_dtype
from maya.kernels.pruned_rnnt.arcs import ArcRules, run_lattice, score_masses
from maya.kernels.slices import slices
from maya.kernels.token_softmax import block_elements


class PrunedLoss(torch.autograd.Function):
    """Saves the logits (by reference) and tensors without a vocabulary axis."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, transcripts: Transcripts, ranges: Tensor, rules: ArcRules, backend: str
    ) -> Tensor:
        dtype = compute_dtype(logits.dtype)
        index, inside = _window_labels(transcripts, ranges)
        blank = logits.new_full(ranges.shape, NEG_INF, dtype=dtype)
        label = blank.clone()
        for row, part in _blocks(logits, transcripts.frames):
            # log_softmax, and not logits minus a logsumexp, whose rounding would add up along a path.
            block = logits[row, part].log_softmax(-1, dtype=dtype)
            blank[row, part] = block[..., transcripts.blank]
            label[row, part] = block.gather(-1, index[row, part, :, None])[..., 0]
        width = transcripts.targets.shape[1] + 1
        blank, label = (_to_lattice(x, ranges, inside, width) for x in (blank, label))
        training = ctx.needs_input_grad[0]
        result = run_lattice(blank, label, transcripts, rules, with_posteriors=training, backend=backend)
        if training:
            masses = (_from_lattice(x, ranges, inside).to(dtype) for x in score_masses(result, rules))
            ctx.save_for_backward(logits, index, *masses, result.log_prob)
            ctx.settings = transcripts.frames, transcripts.blank
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
            block.masked_fill_(mass[row, part, :, None] == 0, 0.0)  # also if the logits are nan
            grad[row, part] = block.to(grad.dtype)
        return grad, *(None,) * 4


def window_rows(transcripts: Transcripts, ranges: Tensor) -> RowList:
    """The valid cells of all windows as rows of the joint."""
    index, inside = _window_labels(transcripts, ranges)
    size = ranges.shape[1]
    utterance, t, _ = inside.nonzero(as_tuple=True)
    position = ranges[inside]
    last = torch.tensor(transcripts.labels, device=ranges.device)[utterance]
    return RowList(
        utterance=utterance,
        frame=utterance * size + t,
        state=utterance * (transcripts.targets.shape[1] + 1) + position,
        label=index[inside].masked_fill_(position == last, -1),
        by_frame=True,
    )


def window_masses(
    scores: RowScores, cells: RowCells, transcripts: Transcripts, rules: ArcRules, *, with_posteriors: bool
) -> RowMasses:
    """Losses and masses of scored rows, which need not be all cells."""
    result = run_lattice(
        cells.scatter(scores.blank), cells.scatter(scores.label), transcripts, rules,
        with_posteriors=with_posteriors, backend=cells.backend,
    )  # fmt: skip
    dtype = scores.norm.dtype
    loss = (-result.log_prob).to(dtype)
    if not with_posteriors:
        return RowMasses(loss, result.log_prob)
    blank, label = (cells.gather(x, dtype) for x in score_masses(result, rules))
    return RowMasses(loss, result.log_prob, blank, label)


def _window_labels(transcripts: Transcripts, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Next label of each window position, (B, S, R), any id if there is none; whether it is valid."""
    frames, labels = (torch.tensor(x, device=ranges.device) for x in (transcripts.frames, transcripts.labels))
    t = torch.arange(ranges.shape[1], device=ranges.device)
    inside = (t < frames[:, None])[..., None] & (ranges <= labels[:, None, None])
    label = next_labels(transcripts.targets)[:, None].expand(-1, ranges.shape[1], -1).gather(2, ranges)
    return label, inside


def _to_lattice(score: Tensor, ranges: Tensor, inside: Tensor, width: int) -> Tensor:
    """(B, S, U+1), with -inf at positions outside the windows."""
    outside = score.new_full((*score.shape[:2], width), NEG_INF)
    return outside.scatter_(2, ranges, score.masked_fill(~inside, NEG_INF))


def _from_lattice(mass: Tensor, ranges: Tensor, inside: Tensor) -> Tensor:
    return mass.gather(2, ranges).masked_fill_(~inside, 0.0)


def _blocks(logits: Tensor, frames: list[int]) -> Iterator[tuple[int, slice]]:
    """(row, frames) of blocks that cover the valid frames; see token_softmax.py."""
    step = block_elements(logits) // max(1, logits.shape[2] * logits.shape[3])
    return ((row, part) for row, t in enumerate(frames) for part in slices(t, step))
