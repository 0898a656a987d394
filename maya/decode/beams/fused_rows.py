"""The states of language models and hot words of all hypotheses of a batched beam search."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from maya.decode.base import Method
from maya.decode.fusion import Fusion, State, select


@dataclass(frozen=True, slots=True)
class FusionStart:
    """What a search adds to its scores, and the state of each utterance before its first token."""

    fusion: Fusion
    state: State


def fusion_start(method: Method, rows: int, langs: Tensor | None) -> FusionStart | None:
    """The start of `rows` utterances; None for a method that adds nothing."""
    return FusionStart(method.fusion, method.start_fusion(rows, langs)) if method.fusion else None


def waits_for(device: torch.device) -> bool:
    """Whether reading a value of a tensor waits for the device."""
    return device.type != "cpu"


class FusedRows:
    """Fusion of B * K hypotheses.

    On a CPU only the hypotheses that took a token are advanced. On a GPU all are, because asking which of
    them did would wait for it.
    """

    def __init__(self, start: FusionStart, batch: int, beam: int, like: Tensor) -> None:
        """like (1, V): the device and the size of the scores."""
        self.fusion, self._sparse = start.fusion, not waits_for(like.device)
        rows = torch.arange(batch * beam, device=like.device) // beam
        self._like = like
        self.state: State = select(start.state, rows)
        self._rows = batch * beam
        self._kept_scores: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """(B * K, V) fp32: what is added to each next token, 0 for blank."""
        if self._kept_scores is None:
            self._kept_scores = self._scores(self.state, self._rows)
        return self._kept_scores

    def token_scores(self, tokens: Tensor) -> Tensor:
        """tokens (B * K, C), none of them blank -> (B * K, C): what is added to each.

        A scorer with a method `token_scores(state, tokens)` need not score the whole vocabulary.
        """
        parts = self.fusion.parts
        if not all(hasattr(part.scorer, "token_scores") for part in parts):
            return self.scores.gather(1, tokens)
        scores = [
            (part.weight, part.scorer.token_scores(own, tokens))  # type: ignore[attr-defined]
            for part, own in zip(parts, self.state, strict=True)
        ]
        if not self.fusion.token_bonus and [weight for weight, _ in scores] == [1.0]:
            return scores[0][1]
        total = torch.full(tokens.shape, self.fusion.token_bonus, device=tokens.device)
        for weight, own in scores:
            total += weight * own
        return total

    def keep(self, rows: int) -> State:
        """Keep the first `rows` of the B * K hypotheses. Returns the states of the others."""
        others = tree_map(lambda x: x[rows:], self.state)
        self._rows, self.state = rows, tree_map(lambda x: x[:rows], self.state)
        self._kept_scores = None if self._kept_scores is None else self._kept_scores[:rows]
        return others

    def advance(self, sources: Tensor, tokens: Tensor, labelled: Tensor) -> None:
        """Reorder the hypotheses by `sources` (B * K,), then take tokens (B * K,) where `labelled`."""
        scores, self._kept_scores = self._kept_scores, None
        if not self._sparse:
            taken = torch.where(labelled, tokens, self.fusion.blank)
            self.state = self.fusion.advance(select(self.state, sources), taken)
            return
        rows = labelled.nonzero()[:, 0]
        scorers = [part.scorer for part in self.fusion.parts]
        parents, taken = sources[rows], tokens[rows]
        new = [s.advance(_rows(x, parents), taken) for s, x in zip(scorers, self.state, strict=True)]
        if scores is not None:  # a row of them may be long
            moved = not torch.equal(sources, torch.arange(len(sources)))
            scores = scores[sources] if moved else scores.clone()
            scores[rows] = self._scores(tuple(new), len(rows))
        self._kept_scores = scores
        self.state = tuple(
            _put(_rows(x, sources), rows, fresh) for x, fresh in zip(self.state, new, strict=True)
        )

    def final(self, state: State, totals: Tensor) -> Tensor:
        """What the end of the text adds to totals (B, K) of B * K states: (B, K)."""
        return self.fusion.final(state, totals.flatten()).view_as(totals)

    def _scores(self, state: State, rows: int) -> Tensor:
        return self.fusion.scores(state, self._like.expand(rows, -1))


def _rows(state: State, index: Tensor) -> State:
    """`maya.decode.fusion.select`, in a fifth of its time for the usual small states."""
    return state[index] if isinstance(state, Tensor) else tuple(_rows(x, index) for x in state)


def _put(state: State, rows: Tensor, new: State) -> State:
    """`state`, changed in place to `new` in these rows."""
    if isinstance(state, Tensor):
        return state.index_copy_(0, rows, new)
    return tuple(_put(x, rows, fresh) for x, fresh in zip(state, new, strict=True))
