"""Data shared by the operator's forms: fast weights, the norms of their rows, and the rule of a step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RENORMALISE_EPS = 1e-5
ORTHOGONALIZE = ("none", "muon5", "muon5-constant")
NORMALIZE = ("frames", "none")
UPDATE_WEIGHTS = ("all", "w1")


class FastWeights(NamedTuple):
    """The state: f(x) = w1 (silu(w0 x) * (w2 x)) of every utterance and head, and the momentum of its steps.

    w0, w2: (B, H, Dh, D); w1: (B, H, D, Dh); fp32 or fp64. m0, m1, m2: the same shapes, or None (zero; with
    `update_weights="w1"` only m1 is kept).
    """

    w0: Tensor
    w1: Tensor
    w2: Tensor
    m0: Tensor | None = None
    m1: Tensor | None = None
    m2: Tensor | None = None

    def detach(self) -> "FastWeights":
        """The same values without autograd history, for the next piece of a stream."""
        return FastWeights(*(None if x is None else x.detach() for x in self))  # type: ignore[arg-type]

    @property
    def bytes(self) -> int:
        """Size of the state that a stream stores."""
        return sum(x.numel() * x.element_size() for x in self if x is not None)


class RowNorms(NamedTuple):
    """The norm of each row after a step. w0, w2: (B, H, Dh); w1: (B, H, D); B may be 1."""

    w0: Tensor
    w1: Tensor
    w2: Tensor


def row_norms(weights: FastWeights) -> RowNorms:
    """The norms of the rows of `weights`. A stream passes those of the learned initial weights."""
    return RowNorms(*(torch.linalg.vector_norm(w, dim=-1) for w in weights[:3] if w is not None))


def initial(w0: Tensor, w1: Tensor, w2: Tensor, batch: int) -> FastWeights:
    """Learned weights (H, Dh, D), (H, D, Dh), (H, Dh, D) as the state of `batch` utterances; no copy."""
    return FastWeights(*(w.expand(batch, *w.shape) for w in (w0, w1, w2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule that turns gradients into a step; the fields are arguments of `lact`."""

    orthogonalize: str = "none"
    normalize: str = "frames"
    update_weights: str = "all"
