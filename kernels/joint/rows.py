"""What the joint's operators are given and give: lattice cells as rows, the output layer, scores, masses."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.checks import scores_dtype
from maya.kernels.lattice import NEG_INF

ACTIVATIONS = ("relu", "tanh", "sigmoid")


@dataclass(slots=True)
class RowList:
    """R lattice cells (b, t, u) in any order: full, packed, pruned and compacted lattices are such lists.

    All are (R,) int64 on the device of f and g. utterance: b. frame: b * S + t, a row of f viewed (B*S, H).
    state: b * (U+1) + u, a row of g viewed (B*(U+1), H). label: the next token, -1 where there is none.
    """

    utterance: Tensor
    frame: Tensor
    state: Tensor
    label: Tensor

    def __len__(self) -> int:
        return self.frame.shape[0]

    def take(self, index: Tensor | slice) -> "RowList":
        """The rows that `index` (a slice, or int64 positions) names."""
        return RowList(self.utterance[index], self.frame[index], self.state[index], self.label[index])


@dataclass(slots=True)
class OutputLayer:
    """x = weight h + bias: weight (V, H), bias (V,) or None; for TDT also durations (D, H), (D,) or None."""

    weight: Tensor
    bias: Tensor | None = None
    duration_weight: Tensor | None = None
    duration_bias: Tensor | None = None


@dataclass(slots=True)
class JointSettings:
    """blank: its id. activation: "relu", "tanh" or "sigmoid". dropout: of h; `seed` picks the mask."""

    blank: int
    activation: str = "relu"
    dropout: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class RowScores:
    """Per row, fp32 (fp64 for fp64 input): norm (R,) log-sum-exp of the token logits; blank, label (R,)
    log probabilities, -inf where there is no label; durations (R, D) log probabilities, None without them.

    norm is for the gradient of the same backend only. Triton's is (R, 2): two summands, in base 2.
    """

    norm: Tensor
    blank: Tensor
    label: Tensor
    durations: Tensor | None = None


@dataclass(slots=True)
class RowMasses:
    """What a lattice makes of scores: the loss (B,), and what the gradient of each row is made of.

    blank, label (R,): posteriors of leaving a row by a blank or its label, times whatever the loss scales
    them with (FastEmit), never negative. durations (R, D): d loss / d duration logits. log_prob (B,): -inf
    for an utterance without a path, whose incoming gradient is dropped. Only `loss` and `log_prob` are
    needed when no gradient is.
    """

    loss: Tensor
    log_prob: Tensor
    blank: Tensor | None = None
    label: Tensor | None = None
    durations: Tensor | None = None


@dataclass(slots=True)
class JointGradients:
    """Gradients of f (M, H), g (N, H) and each parameter, in fp32 (fp64 for fp64); None where not wanted."""

    f: Tensor | None = None
    g: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    duration_weight: Tensor | None = None
    duration_bias: Tensor | None = None


class RowCells:
    """Moves numbers of rows to the cells of a lattice and back."""

    def __init__(self, rows: RowList, shape: tuple[int, int, int], backend: str) -> None:
        """shape: B, S, U+1. backend: that of the lattice, "torch" or "triton"."""
        self.shape, self.backend = shape, backend
        self.index = rows.frame * shape[2] + rows.state % shape[2]

    def scatter(self, x: Tensor) -> Tensor:
        """(R, ...) as (B, S, U+1, ...), -inf where there is no row, as precise as the lattice counts."""
        dtype = scores_dtype(self.backend, x)
        out = x.new_full((math.prod(self.shape), *x.shape[1:]), NEG_INF, dtype=dtype)
        out[self.index] = x.to(dtype)
        return out.view(*self.shape, *x.shape[1:])

    def gather(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, S, U+1, ...) as (R, ...)."""
        return x.reshape(math.prod(self.shape), *x.shape[3:])[self.index].to(dtype)


def packed_rows(targets: Tensor, frames: list[int], labels: list[int], size: int) -> RowList:
    """All valid cells of a batch, u fastest, then t, then b; padded cells are no rows.

    targets: (B, U) int64 with a legal id as padding. frames, labels: T and U of each utterance. size: S.
    Waits for no device: the host knows how many rows there are.
    """
    device, (batch, width) = targets.device, (targets.shape[0], targets.shape[1] + 1)
    counts = [t * (u + 1) for t, u in zip(frames, labels, strict=True)]
    starts = [sum(counts[:b]) for b in range(batch)]
    of_batch = torch.tensor([counts, starts, labels], dtype=torch.int64).to(device, non_blocking=True)
    utterance = torch.repeat_interleave(
        torch.arange(batch, device=device), of_batch[0], output_size=sum(counts)
    )
    start, last = of_batch[1:, utterance]
    cell = torch.arange(sum(counts), device=device) - start
    t, u = cell // (last + 1), cell % (last + 1)
    padded = torch.nn.functional.pad(targets, (0, 1), value=-1)
    label = torch.where(u < last, padded[utterance, u], -1)
    return RowList(utterance, utterance * size + t, utterance * width + u, label)
