"""The pruned loss: the full joint on a window of label positions of each frame. See README.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import Transcripts
from maya.kernels.host import numbers_on
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


@dataclass(slots=True)
class WindowRows:
    """The cells of all windows as rows of the joint.

    Each frame of an utterance of U labels gets min(window, U + 1) rows, so the host knows their number. That
    is how many cells of its window are valid where the window ends at position U or before, as those of
    `prune_ranges` do. Elsewhere some rows do not count: they read the state at position U, and have no mass.

    rows: with the states that they read. places: the same rows, with states at the positions of the window.
    counted: (R,) bool.
    """

    rows: RowList
    places: RowList
    counted: Tensor


def window_rows(transcripts: Transcripts, ranges: Tensor) -> WindowRows:
    """The rows, without waiting for the device of `ranges`."""
    (batch, size, window), width = ranges.shape, transcripts.targets.shape[1] + 1
    in_frame = [min(window, u + 1) for u in transcripts.labels]
    counts = [t * n for t, n in zip(transcripts.frames, in_frame, strict=True)]
    starts = [sum(counts[:b]) for b in range(batch)]
    device, total = ranges.device, sum(counts)
    numbers = numbers_on(device, [*counts, *starts, *in_frame, *transcripts.labels]).view(4, batch)
    utterance = torch.arange(batch, device=device).repeat_interleave(numbers[0], output_size=total)
    start, per_frame, last = numbers[1:, utterance]
    cell = torch.arange(total, device=device) - start
    t, place = cell // per_frame, cell % per_frame
    position = ranges[utterance, t, place]
    label = next_labels(transcripts.targets)[utterance, position].masked_fill_(position >= last, -1)
    frame, first = utterance * size + t, utterance * width
    places = RowList(utterance, frame, first + position, label, by_frame=True)
    rows = RowList(utterance, frame, first + position.minimum(last), label, by_frame=True)
    return WindowRows(rows, places, position <= last)


def window_masses(
    scores: RowScores, cells: RowCells, counted: Tensor, transcripts: Transcripts, rules: ArcRules, *,
    with_posteriors: bool,
) -> RowMasses:  # fmt: skip
    """Losses and masses of scored rows. cells: of `WindowRows.places`. counted: see `WindowRows`."""
    result = run_lattice(
        cells.scatter(scores.blank), cells.scatter(scores.label), transcripts, rules,
        with_posteriors=with_posteriors, backend=cells.backend,
    )  # fmt: skip
    dtype = scores.norm.dtype
    loss = (-result.log_prob).to(dtype)
    if not with_posteriors:
        return RowMasses(loss, result.log_prob)
    masses = (cells.gather(x, dtype) for x in score_masses(result, rules))
    blank, label = (mass.masked_fill_(~counted, 0.0) for mass in masses)
    return RowMasses(loss, result.log_prob, blank, label)


def _window_labels(transcripts: Transcripts, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Next label of each window position, (B, S, R), any id if there is none; whether it is valid."""
    frames, labels = (numbers_on(ranges.device, x) for x in (transcripts.frames, transcripts.labels))
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
