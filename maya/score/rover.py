"""ROVER: one transcript from several systems' transcripts of the same audio, by voting word by word.

Fiscus, "A post-processing system to yield reduced word error rates: Recognizer Output Voting Error Reduction
(ROVER)", ASRU 1997. The words of the first system make a network: a line of correspondence sets with one arc
each. Each next system is aligned with the network built so far: 0 for a word that an arc of the set has, 4
for another word, 3 for a set without a word and for a word without a set. A set without a word gets a NULL
arc; a word without a set opens a new set, in which the earlier systems have NULL arcs. In each set the best
word wins:

    score(w) = alpha * N(w) / systems + (1 - alpha) * C(w)

N(w) is the number of arcs with w; C(w) the mean or the largest of their confidences, and `null_confidence`
for NULL. The order of the systems matters, for the alignment and for ties: the first system wins a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maya.decode.hypothesis import Word
from maya.errors import MayaError

Vote = Literal["freq", "avgconf", "maxconf"]
VOTES: tuple[str, ...] = ("freq", "avgconf", "maxconf")
# (alpha, null_confidence) that Fiscus trained on Hub-5E'97; frequency alone has no confidences.
TRAINED = {"freq": (1.0, 0.0), "avgconf": (0.2, 0.8), "maxconf": (0.7, 0.6)}
SUBSTITUTION, GAP = 4, 3

Arc = Word | None  # None is NULL
Network = list[list[Arc]]  # correspondence sets, each with an arc of every system


@dataclass(frozen=True, kw_only=True, slots=True)
class RoverOptions:
    """How votes are counted. vote: by frequency alone, or also by mean or largest confidence. alpha: weight
    of frequency, in [0, 1]; null_confidence: of an arc without a word, in [0, 1]; None: Fiscus's values.

    Raises MayaError for values outside of their range.
    """

    vote: Vote = "freq"
    alpha: float | None = None
    null_confidence: float | None = None

    def __post_init__(self) -> None:
        if self.vote not in VOTES:
            raise MayaError(f"unknown vote {self.vote!r}; choose one of {', '.join(VOTES)}")
        for name, value in (("alpha", self.alpha), ("null_confidence", self.null_confidence)):
            if value is not None and not 0 <= value <= 1:
                raise MayaError(f"{name} must be from 0 to 1, not {value:g}")

    @property
    def weights(self) -> tuple[float, float]:
        """alpha and null_confidence."""
        alpha, null = TRAINED[self.vote]
        return (
            alpha if self.alpha is None else self.alpha,
            null if self.null_confidence is None else self.null_confidence,
        )


def rover(systems: Sequence[Sequence[Word]], options: RoverOptions | None = None) -> list[Word]:
    """The words that win the vote, with the mean times of their arcs and their score as confidence.

    systems: the words of each, the best system first. Raises MayaError without systems, and for a vote by
    confidence where a word has none.
    """
    options = options or RoverOptions()
    if not systems:
        raise MayaError("ROVER combines transcripts: give at least one")
    alpha, null_confidence = options.weights
    if alpha < 1 and any(word.confidence is None for words in systems for word in words):
        raise MayaError(
            f"vote {options.vote!r} reads confidences of words, which these transcripts lack; use 'freq'"
        )
    winners = (_winner(arcs, options.vote, alpha, null_confidence) for arcs in network(systems))
    return [word for word in winners if word is not None]


def network(systems: Sequence[Sequence[Word]]) -> Network:
    """The correspondence sets of one or more systems' words."""
    sets: Network = [[word] for word in systems[0]]
    for count, words in enumerate(systems[1:], start=1):
        sets = _added(sets, words, count)
    return sets


def _added(sets: Network, words: Sequence[Word], count: int) -> Network:
    """The network of `count` systems with the words of one more; a tie takes the pair, then the empty arc."""
    texts = [{arc.text for arc in arcs if arc is not None} for arcs in sets]
    own = [word.text for word in words]
    i, j = len(sets), len(words)
    gaps = GAP * np.arange(j + 1, dtype=np.int32)
    costs = np.zeros((i + 1, j + 1), np.int32)
    costs[0] = gaps
    for row, text in enumerate(texts, start=1):
        above = costs[row - 1]
        pairs = SUBSTITUTION * np.array([word not in text for word in own], np.int32)
        best = np.append(above[0] + GAP, np.minimum(above[:-1] + pairs, above[1:] + GAP))
        # Gaps in a row: the least of best[k] + GAP * (j - k) over all k up to j.
        costs[row] = np.minimum.accumulate(best - gaps) + gaps
    longer: Network = []
    while i or j:
        if i and j:
            pair = 0 if words[j - 1].text in texts[i - 1] else SUBSTITUTION
            if costs[i, j] == costs[i - 1, j - 1] + pair:
                i, j = i - 1, j - 1
                longer.append([*sets[i], words[j]])
                continue
        if i and costs[i, j] == costs[i - 1, j] + GAP:
            i -= 1
            longer.append([*sets[i], None])
        else:
            j -= 1
            longer.append([*[None] * count, words[j]])
    return longer[::-1]


def _winner(arcs: Sequence[Arc], vote: Vote, alpha: float, null_confidence: float) -> Word | None:
    """The word of the best score, None for NULL; the first in the order of systems among equals."""
    best: tuple[float, list[Word]] | None = None
    for text in dict.fromkeys(arc.text if arc else None for arc in arcs):
        own = [arc for arc in arcs if arc is not None and arc.text == text]
        number = len(own) if text is not None else sum(arc is None for arc in arcs)
        confidence = null_confidence
        if text is not None:
            values = [word.confidence or 0.0 for word in own]
            confidence = max(values) if vote == "maxconf" else float(np.mean(values))
        score = alpha * number / len(arcs) + (1 - alpha) * confidence
        if best is None or score > best[0] + 1e-12:  # sums of equal votes may differ in the last bits
            best = (score, own)
    assert best is not None
    score, own = best
    if not own:
        return None
    return Word(
        text=own[0].text, start=_mean([word.start for word in own]), end=_mean([word.end for word in own]),
        confidence=score,
    )  # fmt: skip


def _mean(times: Sequence[float | None]) -> float | None:
    given = [time for time in times if time is not None]
    return sum(given) / len(given) if given else None
