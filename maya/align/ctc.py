"""Forced alignment on CTC of a text that is not spoken exactly: the best path through a graph in which words
may be skipped and speech may stand between words.

States are CTC's, a label for each token and a blank before, between and after tokens, and at each word
boundary one more for speech that is not in the text. Memory is bounded for any length: the scores of every
k-th frame are kept, and the steps between two of them are computed again when the path is traced back."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maya.config import config
from maya.errors import MayaError
from maya.ranges import NonNegFloat, PosFloat

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
WILDCARD = -1  # the token of characters that the vocabulary lacks: any output but blank
_LABEL, _BLANK, _OTHER = 0, 1, 2
_FRAMES_AT_ONCE = 512
_BLOCK = 1024  # frames; shorter audio needs no second pass


@config
class SkipCosts:
    """The costs of leaving the text, in nats.

    word: of a word that is not spoken, and `token` for each of its tokens. enter: of a passage that is not in
    the text, and `frame` for each of its frames besides the log probability of the frame's best output. With
    large costs the text is taken as it is; with small ones words that the model hears badly are left out.
    """

    word: PosFloat = 2.0
    token: NonNegFloat = 6.0
    enter: PosFloat = 6.0
    frame: PosFloat = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipGraph:
    """The tokens (U,) to align, `WILDCARD` among them, and the index (N,) of the first token of each word,
    whose words have a token each at least. costs: None aligns exactly this text."""

    tokens: Ints
    first: Ints
    blank: int
    costs: SkipCosts | None = None
    bounds: Ints = field(init=False)
    joined: Floats = field(init=False)
    skip_costs: Floats = field(init=False)

    def __post_init__(self) -> None:
        if (self.tokens == self.blank).any():
            raise MayaError(f"the tokens to align hold the blank {self.blank}; leave it out")
        object.__setattr__(self, "bounds", np.append(self.first, len(self.tokens)))
        joined = np.zeros(len(self.tokens))  # -inf where a blank must stand before a token
        same = (self.tokens[1:] == self.tokens[:-1]) & (self.tokens[1:] != WILDCARD)
        joined[1:][same] = -math.inf
        object.__setattr__(self, "joined", joined)
        costs = self.costs or SkipCosts()
        words = costs.word + costs.token * np.diff(self.bounds)
        object.__setattr__(self, "skip_costs", np.concatenate([[0.0], np.cumsum(words)]))


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """Of U tokens: first frame and frame after the last (U,), -1 for tokens of skipped words; the mean
    probability over these frames (U,); and the score of the path in nats."""

    start: Ints
    end: Ints
    confidence: Floats
    score: float


@dataclass(slots=True)
class _Scores:
    label: Floats  # (U,)
    blank: Floats  # (U + 1,)
    other: Floats  # (N + 1,)


@dataclass(slots=True)
class _Steps:
    """Where the best path into each state comes from: 0 the state itself, 1 the blank before, 2 the label
    before, 3 the passage before, 4 a boundary before skipped words: `source`, of kind `source_kind`."""

    label: NDArray[np.uint8]
    blank: NDArray[np.uint8]
    other: NDArray[np.uint8]
    source: NDArray[np.int32]
    source_kind: NDArray[np.uint8]


Emissions = Callable[[int, int], Floats]
"""Log probabilities (n, V) of the frames from one number to another."""


def align_graph(emissions: Emissions, frames: int, graph: SkipGraph) -> TokenSpans:
    """The best path of `frames` frames through a graph. Raises MayaError where no path has a probability
    above zero: without costs, CTC needs a frame for each token and one more between equal neighbours."""
    count = len(graph.tokens)
    if frames == 0 and count and graph.costs is None:
        raise MayaError(f"{count} tokens need at least {count} frames, and the audio has none")
    block = max(_BLOCK, math.isqrt(frames))
    kept, scores, steps = list[_Scores](), _start(graph), list[_Steps]()
    for begin in range(0, frames, block):
        kept.append(scores)
        end_frame = min(frames, begin + block)
        keep = steps if end_frame == frames else None  # the last block is the first to be traced back
        scores = _forward(emissions, begin, end_frame, graph, scores, keep)
    state, score = _last(graph, scores)
    if not score > -math.inf:
        raise MayaError(
            f"{count} tokens have no path through {frames} frames: the text is too long for the audio, or "
            "the model gives one of its tokens a probability of zero"
        )
    start, end = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    total = np.zeros(count)
    for number in range(len(kept) - 1, -1, -1):
        begin, stop = number * block, min(frames, number * block + block)
        if not steps:
            _forward(emissions, begin, stop, graph, kept[number], steps)
        log_probs = emissions(begin, stop)
        for frame in range(stop - 1, begin - 1, -1):
            kind, place = state
            if kind == _LABEL:
                end[place] = frame + 1 if end[place] < 0 else end[place]
                start[place] = frame
                total[place] += math.exp(_emission(log_probs[frame - begin], graph, place))
            state = _before(graph, steps[frame - begin], kind, place)
        steps = []
    spoken = start >= 0
    confidence = np.where(spoken, total / np.maximum(1, end - start), 0.0)
    return TokenSpans(start, end, confidence, score)


def wildcard_column(log_probs: Floats, blank: int) -> Floats:
    """(n, V) -> (n,): the log probability of the best output besides blank (WhisperX's wildcard)."""
    others = log_probs.copy()
    others[:, blank] = -math.inf
    return others.max(1)


def _emission(row: Floats, graph: SkipGraph, place: int) -> float:
    token = int(graph.tokens[place])
    if token != WILDCARD:
        return float(row[token])
    return float(wildcard_column(row[None], graph.blank)[0])


def _start(graph: SkipGraph) -> _Scores:
    count, words = len(graph.tokens), len(graph.first)
    blank = np.full(count + 1, -math.inf)
    blank[0] = 0.0
    return _Scores(np.full(count, -math.inf), blank, np.full(words + 1, -math.inf))


def _forward(
    emissions: Emissions, begin: int, end: int, graph: SkipGraph, scores: _Scores, steps: list[_Steps] | None
) -> _Scores:
    """The scores after the frames from `begin` to `end`; `steps` gets those of each frame."""
    for first in range(begin, end, _FRAMES_AT_ONCE):
        log_probs = emissions(first, min(end, first + _FRAMES_AT_ONCE)).astype(np.float64, copy=False)
        any_label = wildcard_column(log_probs, graph.blank)
        best = np.maximum(any_label, log_probs[:, graph.blank])
        is_wild = graph.tokens == WILDCARD
        for row, wild, top in zip(log_probs, any_label, best, strict=True):
            labels = row[graph.tokens]
            if is_wild.any():
                labels = np.where(is_wild, wild, labels)
            scores = _step(graph, scores, labels, float(row[graph.blank]), float(top), steps)
    return scores


def _step(
    graph: SkipGraph, old: _Scores, labels: Floats, blank: float, best: float, steps: list[_Steps] | None
) -> _Scores:
    """One frame: labels (U,) log probabilities of the tokens, of blank, and of the best output."""
    bounds, costs, count = graph.bounds, graph.costs, len(graph.tokens)
    before = np.concatenate([[-math.inf], old.label])  # (U + 1,): the label before each blank
    new_blank = np.maximum(old.blank, before)
    direct = before[:count] + graph.joined
    new_label = np.maximum(np.maximum(old.label, old.blank[:count]), direct)
    chosen = steps is not None
    if chosen:
        blank_step = np.where(before > old.blank, np.uint8(2), np.uint8(0))
        stay = np.maximum(old.label, old.blank[:count])
        label_step = np.where(old.blank[:count] > old.label, np.uint8(1), np.uint8(0))
        label_step[direct > stay] = 2
    new_other, skip = old.other, None
    if costs is not None:
        at_blank, at_label = old.blank[bounds], before[bounds]
        leave = np.maximum(np.maximum(at_blank, old.other), at_label) + graph.skip_costs
        highest = np.maximum.accumulate(leave)
        skip = np.concatenate([[-math.inf], highest[:-1]]) - graph.skip_costs
        enter = np.maximum(old.other, skip)
        came = np.maximum(np.maximum(at_blank, at_label), skip) - costs.enter
        new_other = np.maximum(old.other, came) + (best - costs.frame)
        if chosen:
            way = np.where(skip > old.other, np.uint8(4), np.uint8(3))
            better = enter > new_blank[bounds]
            blank_step[bounds[better]] = way[better]
            words = enter[:-1] > new_label[graph.first]
            label_step[graph.first[words]] = way[:-1][words]
            other_step = np.where(at_label > at_blank, np.uint8(2), np.uint8(1))
            other_step[skip > np.maximum(at_blank, at_label)] = 4
            other_step[old.other >= came] = 0
        new_blank[bounds] = np.maximum(new_blank[bounds], enter)
        new_label[graph.first] = np.maximum(new_label[graph.first], enter[:-1])
    if steps is not None:
        if costs is None:
            other_step, sources, kinds = np.zeros(1, np.uint8), np.zeros(1, np.int32), np.zeros(1, np.uint8)
        else:
            numbers = np.arange(len(leave), dtype=np.int32)
            sources = np.maximum.accumulate(np.where(leave >= highest, numbers, 0)).astype(np.int32)
            kinds = np.where(at_label > at_blank, np.uint8(_LABEL), np.uint8(_BLANK))
            kinds[old.other > np.maximum(at_blank, at_label)] = _OTHER
        steps.append(_Steps(label_step, blank_step, other_step, sources, kinds))
    return _Scores(new_label + labels, new_blank + blank, new_other)


def _last(graph: SkipGraph, scores: _Scores) -> tuple[tuple[int, int], float]:
    """The state (kind, index) in which the best path ends, and its score."""
    bounds, count = graph.bounds, len(graph.tokens)
    before = np.concatenate([[-math.inf], scores.label])[bounds]
    choices = np.stack([before, scores.blank[bounds], scores.other])  # in the order of the kinds
    if graph.costs is None:
        choices[:, :-1] = -math.inf
    else:
        choices = choices + graph.skip_costs - graph.skip_costs[-1]
    # Of equal scores the one that has skipped the fewest words.
    word = choices.shape[1] - 1 - int(choices.max(0)[::-1].argmax())
    kind = int(choices[:, word].argmax())
    place = {_LABEL: int(bounds[word]) - 1, _BLANK: int(bounds[word]), _OTHER: word}[kind]
    assert place < count + 1
    return (kind, place), float(choices[kind, word])


def _before(graph: SkipGraph, steps: _Steps, kind: int, place: int) -> tuple[int, int]:
    """The state before a state."""
    table = {_LABEL: steps.label, _BLANK: steps.blank, _OTHER: steps.other}[kind]
    step = int(table[place])
    if step == 0:
        return kind, place
    boundary = place if kind == _OTHER else int(np.searchsorted(graph.bounds, place))
    token = int(graph.bounds[boundary]) if kind == _OTHER else place
    if step == 1:
        return _BLANK, token
    if step == 2:
        return _LABEL, token - 1
    if step == 3:
        return _OTHER, boundary
    source = int(steps.source[boundary - 1])
    source_kind = int(steps.source_kind[source])
    index = {_LABEL: int(graph.bounds[source]) - 1, _BLANK: int(graph.bounds[source]), _OTHER: source}
    return source_kind, index[source_kind]
