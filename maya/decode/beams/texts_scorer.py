"""The n-gram language models of the training texts as a scorer of searches on a CPU;
`maya.decode.lm.token_ngram.of_texts` is the same for other devices."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maya.decode.fusion import State
from maya.decode.lm.kneser_ney import Context, NGram

_MOST_STATES = 20_000  # kept from one search to the next; with 1000 tokens 240 MB


class TextsScorer:
    """weight * log P(token) + bonus by the n-gram of each utterance's language, or by that of all languages
    together where it is unknown. An utterance whose language has none scores 0, without a bonus.

    A state is a number; scores and following states of those that a search has reached are kept in tables.
    The tables start anew with a search once they are large, so one search at a time may use a scorer.
    """

    def __init__(
        self, ngrams: Mapping[str, NGram], languages: Sequence[str], *, outputs: int, blank: int,
        weight: float, bonus: float,
    ) -> None:  # fmt: skip
        """outputs: V, the number of tokens with blank."""
        self._ngrams, self._languages, self._blank = ngrams, tuple(languages), blank
        self._weight, self._bonus = weight, bonus
        self._outputs = outputs
        self._clear()

    @torch.inference_mode(False)  # tables outlive the search that makes them, and others may change them
    def _clear(self) -> None:
        """Tables with the state 0 alone, of utterances without a language model."""
        self._keys: list[tuple[str, Context] | None] = [None]
        self._numbers: dict[tuple[str, Context], int] = {}
        self._scores = torch.zeros(1, self._outputs)
        self._ends = torch.zeros(1)
        self._next = torch.zeros(1, self._outputs, dtype=torch.int64)

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        if len(self._keys) > _MOST_STATES:
            self._clear()
        numbers = [-1] * rows if langs is None else langs.tolist()
        names = [self._languages[n] if n >= 0 else "" for n in numbers]
        states = [
            self._number(name, self._ngrams[name].start()) if name in self._ngrams else 0 for name in names
        ]
        return (torch.tensor(states, dtype=torch.int64),)

    def scores(self, state: State) -> Tensor:
        return self._scores[state[0]]

    def token_scores(self, state: State, tokens: Tensor) -> Tensor:
        """tokens (N, C) -> (N, C): `scores` of these tokens, of which none is blank."""
        return self._scores.take(state[0][:, None] * self._outputs + tokens)

    def advance(self, state: State, tokens: Tensor) -> State:
        (old,) = state
        new = self._next[old, tokens]
        missing = (new < 0).nonzero()[:, 0]
        if len(missing):
            pairs = zip(missing.tolist(), old[missing].tolist(), tokens[missing].tolist(), strict=True)
            for _, number, token in pairs:
                key = self._keys[number]
                assert key is not None
                language, context = key
                follower = self._number(language, self._ngrams[language].advance(context, token))
                self._next[number, token] = follower
            new = self._next[old, tokens]
        return (new,)

    def final(self, state: State) -> Tensor:
        return self._ends[state[0]]

    def _number(self, language: str, context: Context) -> int:
        """The number of a state, for which the tables get a row if it is new."""
        key = (language, context)
        if key not in self._numbers:
            number = self._numbers[key] = len(self._keys)
            self._keys.append(key)
            self._grow(number + 1)
            log_probs = torch.from_numpy(self._ngrams[language].log_probs(context)).to(self._scores)
            labels = min(len(log_probs) - 1, self._scores.shape[1])
            self._scores[number, :labels] = self._weight * log_probs[:labels] + self._bonus
            self._scores[number, self._blank] = 0.0
            self._ends[number] = self._weight * log_probs[-1]
        return self._numbers[key]

    @torch.inference_mode(False)
    def _grow(self, size: int) -> None:
        """Tables of at least `size` rows."""
        added = max(size, 2 * len(self._ends)) - len(self._ends)
        if size > len(self._ends):
            self._scores = torch.cat([self._scores, self._scores.new_zeros(added, self._scores.shape[1])])
            self._ends = torch.cat([self._ends, self._ends.new_zeros(added)])
            self._next = torch.cat([self._next, torch.full_like(self._next[:1], -1).expand(added, -1)])
