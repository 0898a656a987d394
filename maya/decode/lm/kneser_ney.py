"""A token n-gram language model, estimated in memory from training texts. Some million words take seconds and
about a GB.

Interpolated Kneser-Ney smoothing (Chen and Goodman 1999, "An empirical study of smoothing techniques for
language modeling", with one discount an order, n1 / (n1 + 2 n2)): the longest order counts how often a token
followed a context, the shorter ones after how many different tokens.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from maya.decode.lm.arpa import BEGIN, END, Arpa, Grams

Context = tuple[int, ...]
_HELD_STATES = 20_000  # of one beam search; with 1 000 pieces 80 MB at most


class NGram:
    """P(token | the last order - 1 tokens) for tokens 0 ... V - 1 and the end of the text, V.

    A state is the context that the next token depends on: the longest suffix of the tokens so far that occurs
    in the texts.
    """

    def __init__(self, texts: Iterable[Sequence[int]], vocab_size: int, *, order: int = 6) -> None:
        """texts: token ids, one text each; a text that occurs twice counts twice."""
        if order < 1:
            raise ValueError(f"an n-gram has an order of at least 1, not {order}")
        self.vocab_size, self.order = vocab_size, order
        self._begin = vocab_size + 1  # stands before a text, and is never predicted
        counts = _kneser_ney_counts(texts, order, self._begin, vocab_size)
        self._followers = {context: _discounted(after, discount) for after_of, discount in counts
                           for context, after in after_of.items()}  # fmt: skip
        self.log_probs = lru_cache(_HELD_STATES)(self._log_probs)

    def start(self) -> Context:
        """The state before the first token."""
        return self._longest_suffix((self._begin,))

    def advance(self, state: Context, token: int) -> Context:
        """The state after one more token."""
        return self._longest_suffix((*state, token))

    def _longest_suffix(self, context: Context) -> Context:
        context = context[max(0, len(context) - self.order + 1) :]
        while context and context not in self._followers:
            context = context[1:]
        return context

    def _log_probs(self, state: Context) -> NDArray[np.float32]:
        """(V + 1,) log probabilities of the next token, in nats; the last is that of the end. Kept for the
        states used last."""
        probs = np.full(self.vocab_size + 1, 1 / (self.vocab_size + 1))
        for length in range(len(state) + 1):
            followers = self._followers.get(state[len(state) - length :])
            if followers is not None:
                tokens, shares, rest = followers
                probs *= rest
                probs[tokens] += shares
        return np.log(probs).astype(np.float32)

    def score(self, text: Sequence[int]) -> float:
        """Log probability of a text and its end, in nats."""
        state, total = self.start(), 0.0
        for token in text:
            total += float(self.log_probs(state)[token])
            state = self.advance(state, token)
        return total + float(self.log_probs(state)[self.vocab_size])

    def to_arpa(self, words: Sequence[str]) -> Arpa:
        """The same model as back-off n-grams. words (V,): the name of each token."""
        begin, names = self._begin, (*words, END, BEGIN)
        per_order: list[list[Context]] = [[] for _ in range(self.order)]
        per_order[0] = [(token,) for token in range(self.vocab_size + 2)]
        for context, (tokens, _, _) in self._followers.items():
            if context:
                per_order[len(context)] += [(*context, token) for token in tokens.tolist()]
        grams = []
        for rows in per_order:
            # Nothing predicts the beginning of a text; -99 is the usual figure for it.
            log_probs = [-99 * math.log(10) if row == (begin,) else self._log_prob(row) for row in rows]
            followers = (self._followers.get(row) for row in rows)
            backoffs = [0.0 if after is None else math.log(after[2]) for after in followers]
            table = np.array(rows, np.int32).reshape(len(rows), -1)
            grams.append(Grams(table, np.array(log_probs, np.float32), np.array(backoffs, np.float32)))
        while len(grams) > 1 and not len(grams[-1].log_probs):
            grams.pop()
        return Arpa(names, tuple(grams))

    def _log_prob(self, gram: Context) -> float:
        return float(self.log_probs(gram[:-1])[gram[-1]])


def ngrams_by_language(
    texts: Iterable[tuple[str, Sequence[int]]], vocab_size: int, order: int
) -> dict[str, NGram]:
    """A model for each language, and one of all texts under "". texts: language and token ids of each."""
    by_language: dict[str, list[Sequence[int]]] = defaultdict(list)
    for language, tokens in texts:
        by_language[language].append(tokens)
        by_language[""].append(tokens)
    return {language: NGram(rows, vocab_size, order=order) for language, rows in by_language.items()}


_After = dict[Context, Counter[int]]


def _kneser_ney_counts(
    texts: Iterable[Sequence[int]], order: int, begin: int, end: int
) -> list[tuple[_After, float]]:
    """For each order, what follows each of its contexts how often, and the discount.

    Nothing can stand before the beginning of a text, so contexts that start there keep plain counts in every
    order.
    """
    longest: _After = defaultdict(Counter)
    begun: _After = defaultdict(Counter)
    for text in texts:
        sentence = (begin, *map(int, text), end)
        for i in range(1, len(sentence)):
            context = sentence[max(0, i - order + 1) : i]
            (longest if len(context) == order - 1 else begun)[context][sentence[i]] += 1
    per_order = [longest]
    while len(per_order) < order:
        shorter: _After = defaultdict(Counter)
        for context, after in per_order[-1].items():
            for token in after:
                shorter[context[1:]][token] += 1
        length = order - 1 - len(per_order)
        for context, after in begun.items():
            if len(context) == length:
                shorter[context].update(after)
        per_order.append(shorter)
    return [(after_of, _discount(after_of)) for after_of in per_order]


def _discount(after_of: _After) -> float:
    seen = Counter(count for after in after_of.values() for count in after.values())
    once, twice = seen[1], seen[2]
    # Where nothing occurs once, or nothing twice, the estimate says nothing.
    return once / (once + 2 * twice) if once and twice else 0.75


def _discounted(after: Counter[int], discount: float) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Tokens that follow a context, the share each has, and the share left to the shorter context."""
    tokens = np.fromiter(after, np.int64, len(after))
    counts = np.fromiter(after.values(), np.float64, len(after))
    return tokens, np.maximum(counts - discount, 0) / counts.sum(), discount * len(after) / counts.sum()
