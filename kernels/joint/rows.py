"""Inputs and outputs of the joint's operators: lattice cells as rows, the output layer, scores, masses."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.host import to_device
from maya.kernels.precision import NEG_INF, scores_dtype

ACTIVATIONS = ("relu", "tanh", "sigmoid")
DEFAULT_EPS = 1e-4


@dataclass(slots=True)
class RowList:
    """R lattice cells (b, t, u) in any order: a full, packed, pruned or compacted lattice.

    All are (R,) int64 on the device of f and g. utterance: b. frame: b * S + t, a row of f viewed (B*S, H).
    state: b * (U+1) + u, a row of g viewed (B*(U+1), H). label: the next token, -1 if there is none.
    by_frame: the frames ascend, so that sums by frame need no sort. count: (), int64 on the device: only the
      first `count` rows are visited, and `by_frame` speaks of these; None: all are.
    """

    utterance: Tensor
    frame: Tensor
    state: Tensor
    label: Tensor
    by_frame: bool = False
    count: Tensor | None = None

    def __len__(self) -> int:
        return self.frame.shape[0]

    def take(self, index: Tensor | slice, *, ascending: bool = False) -> "RowList":
        """The rows at `index`, a slice or int64 positions, without `count`. ascending: the positions do."""
        by_frame = self.by_frame and (ascending or isinstance(index, slice))
        return RowList(
            self.utterance[index], self.frame[index], self.state[index], self.label[index], by_frame
        )  # fmt: skip


@dataclass(slots=True)
class OutputLayer:
    """x = weight h + bias: weight (V, H), bias (V,) or None; for TDT also durations (D, H), (D,) or None."""

    weight: Tensor
    bias: Tensor | None = None
    duration_weight: Tensor | None = None
    duration_bias: Tensor | None = None

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.duration_weight, self.duration_bias


@dataclass(slots=True)
class JointSettings:
    """blank: its id. activation: "relu", "tanh" or "sigmoid". dropout: of h; `seed` selects the mask.

    eps: the backward pass skips rows whose occupancy (blank and label mass together) is at most eps.
    form: of the Triton backend; see forms.py.
    """

    blank: int
    activation: str = "relu"
    dropout: float = 0.0
    seed: int = 0
    eps: float = DEFAULT_EPS
    form: str = "auto"


@dataclass(slots=True)
class RowScores:
    """Scores of each row, fp32 (fp64 for fp64 input).

    norm: (R,), log-sum-exp of the token logits, for the gradient of the same backend only; Triton's is (R,
      2), two summands in base 2. blank, label: (R,) log probabilities, -inf without a label. durations: (R,
      D) log probabilities, or None.
    """

    norm: Tensor
    blank: Tensor
    label: Tensor
    durations: Tensor | None = None


@dataclass(slots=True)
class RowMasses:
    """A lattice's result: the losses (B,), and the masses from which each row's gradient is computed.

    blank, label: (R,), posteriors of leaving a row by a blank or by its label, times the loss's own factors
      (FastEmit); never negative. durations: (R, D), d loss / d duration logits. All three are needed only for
      gradients. log_prob: (B,), -inf for an utterance without a path, whose incoming gradient is dropped.
    """

    loss: Tensor
    log_prob: Tensor
    blank: Tensor | None = None
    label: Tensor | None = None
    durations: Tensor | None = None


@dataclass(slots=True)
class RowGradients:
    """Inputs of the joint's backward: `norm` of the scores, and the masses times the incoming gradient."""

    norm: Tensor
    blank: Tensor
    label: Tensor
    durations: Tensor | None = None

    def take(self, rows: slice) -> "RowGradients":
        durations = None if self.durations is None else self.durations[rows]
        return RowGradients(self.norm[rows], self.blank[rows], self.label[rows], durations)


@dataclass(slots=True)
class JointGradients:
    """Gradients of f (M, H), g (N, H) and each parameter, fp32 (fp64 for fp64); None if not needed."""

    f: Tensor | None = None
    g: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    duration_weight: Tensor | None = None
    duration_bias: Tensor | None = None

    @classmethod
    def zeros(
        cls, f2: Tensor, g2: Tensor, layer: OutputLayer, needed: tuple[bool, ...], dtype: torch.dtype
    ) -> "JointGradients":
        inputs = zip((f2, g2, *layer.parameters), needed, strict=True)
        return cls(*(f2.new_zeros(x.shape, dtype=dtype) if x is not None and n else None for x, n in inputs))

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.f, self.g, self.weight, self.bias, self.duration_weight, self.duration_bias


class RowCells:
    """Moves values of rows to the cells of a lattice and back."""

    def __init__(self, rows: RowList, shape: tuple[int, int, int], backend: str) -> None:
        """shape: B, S, U+1. backend: the lattice's, "torch" or "triton"."""
        self.shape, self.backend = shape, backend
        self.index = rows.frame * shape[2] + rows.state % shape[2]

    def scatter(self, x: Tensor) -> Tensor:
        """(R, ...) as (B, S, U+1, ...), -inf in cells that are no rows, in the dtype of the lattice."""
        dtype = scores_dtype(self.backend, x)
        out = x.new_full((math.prod(self.shape), *x.shape[1:]), NEG_INF, dtype=dtype)
        out[self.index] = x.to(dtype)
        return out.view(*self.shape, *x.shape[1:])

    def gather(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, S, U+1, ...) as (R, ...)."""
        return x.reshape(math.prod(self.shape), *x.shape[3:])[self.index].to(dtype)


def packed_rows(transcripts: Transcripts, size: int) -> RowList:
    """All valid cells of a batch with S = `size`, u fastest, then t, then b. Padded cells are left out.

    The device is not waited for, because the host knows the number of rows.
    """
    targets, frames, labels = transcripts.targets, transcripts.frames, transcripts.labels
    device, (batch, width) = targets.device, (targets.shape[0], targets.shape[1] + 1)
    counts = [t * (u + 1) for t, u in zip(frames, labels, strict=True)]
    starts = [sum(counts[:b]) for b in range(batch)]
    by_utterance = to_device(torch.tensor([counts, starts, labels], dtype=torch.int64), device)
    utterance = torch.repeat_interleave(
        torch.arange(batch, device=device), by_utterance[0], output_size=sum(counts)
    )
    start, last = by_utterance[1:, utterance]
    cell = torch.arange(sum(counts), device=device) - start
    t, u = cell // (last + 1), cell % (last + 1)
    padded = torch.nn.functional.pad(targets, (0, 1), value=-1)
    label = torch.where(u < last, padded[utterance, u], -1)
    return RowList(utterance, utterance * size + t, utterance * width + u, label, by_frame=True)


def visited_first(rows: RowList, visited: Tensor) -> tuple[Tensor, RowList]:
    """A stable order of all rows with the `visited` ones first, (R,) int64, and the rows in it, counted.

    `nonzero` would have the host wait for their number. So the list keeps its length, and the number stays on
    the device. visited: (R,) bool.
    """
    index, before, count = torch.arange(len(rows), device=visited.device), visited.cumsum(0), visited.sum()
    place = torch.where(visited, before - 1, count + index - before)
    order = torch.empty_like(index).scatter_(0, place, index)
    taken = rows.take(order)
    taken.by_frame, taken.count = rows.by_frame, count
    return order, taken
