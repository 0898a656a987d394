"""Scores that a search adds to those of the acoustic model: language models, hot words, an internal language
model that is subtracted.

A scorer knows nothing of frames. It scores the next token from the tokens so far, for N hypotheses at once; a
search calls `advance` when a hypothesis takes a token other than blank. The state is a tuple, perhaps nested,
of tensors whose first dimension is N, so that a search selects and keeps rows with `select` and `where`, all
on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

State = Any
"""A tuple, perhaps nested, of tensors (N, ...)."""


class Scorer(Protocol):
    """Scores of next tokens. Token ids are those of the model; V counts blank."""

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        """The state of `rows` utterances before their first token. langs (rows,): indices into the model's
        languages, or -1. lists (rows,): which list of hot words each has."""

    def scores(self, state: State) -> Tensor:
        """(N, V) fp32, in nats; 0 for blank."""

    def advance(self, state: State, tokens: Tensor) -> State:
        """The state after tokens (N,), of which none is blank."""

    def final(self, state: State) -> Tensor:
        """(N,) fp32: the score of the end of the text, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A scorer and the factor on its scores, which is negative for what is subtracted."""

    weight: float
    scorer: Scorer


class Fusion:
    """The weighted sum of scorers, plus `token_bonus` nats for each token. Parts of weight 0 are left out."""

    def __init__(self, parts: Sequence[Part], *, blank: int, token_bonus: float = 0.0) -> None:
        self.parts = tuple(part for part in parts if part.weight != 0)
        self.blank, self.token_bonus = blank, token_bonus

    def __bool__(self) -> bool:
        return bool(self.parts) or self.token_bonus != 0

    def start(self, rows: int, langs: Tensor | None = None, lists: Tensor | None = None) -> State:
        """The state of `rows` utterances, see `Scorer.start`."""
        return tuple(part.scorer.start(rows, langs, lists) for part in self.parts)

    def scores(self, state: State, like: Tensor) -> Tensor:
        """What to add to the log probabilities `like` (N, V): (N, V) fp32, 0 for blank."""
        total = torch.full_like(like, self.token_bonus, dtype=torch.float32)
        for part, own in zip(self.parts, state, strict=True):
            total += part.weight * part.scorer.scores(own)
        total[:, self.blank] = 0.0
        return total

    def advance(self, state: State, tokens: Tensor) -> State:
        """The state after tokens (N,). Rows whose token is blank keep their state."""
        taken = tokens != self.blank
        safe = torch.where(taken, tokens, self._any_label)
        steps = zip(self.parts, state, strict=True)
        return where(taken, tuple(part.scorer.advance(own, safe) for part, own in steps), state)

    @property
    def _any_label(self) -> int:
        return 1 if self.blank == 0 else 0

    def final(self, state: State, like: Tensor) -> Tensor:
        """What the end of the text adds to the totals `like` (N,): (N,) fp32."""
        total = torch.zeros_like(like, dtype=torch.float32)
        for part, own in zip(self.parts, state, strict=True):
            total += part.weight * part.scorer.final(own)
        return total


def select(state: State, index: Tensor) -> State:
    """The rows `index` (M,) of a state."""
    return tree_map(lambda x: x[index], state)


def join(states: Sequence[State]) -> State:
    """The rows of all states, one after another."""
    return tree_map(lambda *parts: torch.cat(parts), *states)


def where(mask: Tensor, new: State, old: State) -> State:
    """The rows of `new` where mask (N,) is true, else of `old`."""

    def choose(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, y)

    return tree_map(choose, new, old)
