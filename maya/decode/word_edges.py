"""Starts and ends of words measured on the sound: a decoded token says within which word the time is, and the
level of the audio says where that word begins and ends.

A model emits a token somewhere in its word (on recorded digits 0.03 to 0.36 s after the start), and CTC for
one frame only, so that its frames alone give neither start nor end. The boundaries are those of least cost
between the tokens: quiet places cost least, and words should be as long as their number of letters says.
"""

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVEL_SECONDS = 0.01
# Chosen on dev of recorded digits and of the built-in corpus, whose times are known (docs/decoding.md).
_QUIET = 0.4  # of the range from the 5th to the 95th percentile of the levels
_DEPTH = 3.0  # cost of a boundary at full level
_PAUSE = 2.0  # less cost of a pause of 0.2 s or more
_SPREAD = 0.4  # standard deviation of the logarithm of seconds a letter
_LONGEST_PAUSE = 20  # levels
_SILENCE = 8  # levels: a longer quiet stretch ends the first and the last word of a passage
_REACH = 60  # levels from a token to the edge of its word, where no other word limits it
_APART = 150  # levels without a token divide two passages
_STRAY = 20  # levels from a token in silence to the sound it belongs to, at most
_LEAST_RANGE = 6.0  # dB; flatter sound shows no edges

Span = tuple[float, float]
Levels = NDArray[np.floating[Any]]
"""(n,) dB, one for each `LEVEL_SECONDS` of a recording."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A word to find. first, last: seconds within it, at its first and last token. size: its letters."""

    first: float
    last: float
    size: int


@dataclass(frozen=True, slots=True)
class WordTokens:
    """The numbers of the first and the last token of a word, and its letters."""

    first: int
    last: int
    size: int


def letters_in(text: str) -> int:
    """Letters, marks and digits of a word, 1 at least."""
    return max(1, sum(unicodedata.category(char)[0] in "LMN" for char in text))


def sound_levels(samples: Tensor, rate: int) -> Levels:
    """Audio (N,) -> levels (n,) in dB, one for each `LEVEL_SECONDS`, smoothed over about 50 ms."""
    return levels_of_rows(samples[None], torch.tensor([len(samples)]), rate)[0]


def levels_of_rows(audio: Tensor, lens: Tensor, rate: int) -> list[Levels]:
    """The levels of audio (B, N), of which lens (B,) samples are not padding; see `sound_levels`."""
    step = round(LEVEL_SECONDS * rate)
    counts, most = (lens // step).tolist(), audio.shape[1] // step
    if not most:
        return [np.zeros(0, np.float32) for _ in counts]
    steps = audio[:, : most * step].detach().unflatten(1, (most, step)).float()
    power = torch.linalg.vector_norm(steps, dim=-1).cpu().square() / step
    levels = 10 * torch.log10(_mean_of_three(power, counts) + 1e-10)
    smooth = _mean_of_three(levels, counts).numpy()
    return [row[:count] for row, count in zip(smooth, counts, strict=True)]


def _mean_of_three(x: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, n) -> (B, n); the first and the last of so many values of a row are repeated beyond it."""
    x = torch.cat([x[:, :1], x, x[:, -1:]], dim=1)
    for row, count in zip(x, counts, strict=True):
        if count:
            row[count + 1 :] = row[count]
    return x.unfold(1, 3, 1).mean(-1)


def measured_spans(
    spans: Sequence[Span], words: Sequence[WordTokens], levels: Levels, *, frame_seconds: float,
    offset_seconds: float = 0.0,
) -> list[Span]:  # fmt: skip
    """The spans of tokens in seconds, with the edges of their words measured on the sound.

    spans: by frames, in seconds. words: in order. offset_seconds: by how much tokens are emitted too late.
    Where words share tokens (a piece of Chinese may be two characters) spans are only shifted.
    """
    shifted = [(start - offset_seconds, end - offset_seconds) for start, end in spans]
    if any(a.last >= b.first for a, b in itertools.pairwise(words)):
        return shifted
    half = frame_seconds / 2
    anchors = [Anchor(shifted[w.first][0] + half, shifted[w.last][0] + half, w.size) for w in words]
    for word, edge in zip(words, word_edges(anchors, levels), strict=True):
        if edge is None:
            continue
        begin, end = edge
        for token in range(word.first, word.last + 1):
            stop = end if token == word.last else min(max(shifted[token + 1][0], begin), end)
            shifted[token] = (begin, stop)
            begin = stop
    return shifted


def word_edges(anchors: Sequence[Anchor], levels: Levels) -> list[Span | None]:
    """Start and end in seconds of words in order; None where the sound shows no edges.

    anchors: `first` does not fall from word to word. levels (n,): see `sound_levels`.
    """
    places = [tuple(int(time / LEVEL_SECONDS) for time in (a.first, a.last)) for a in anchors]
    cuts = [i for i in range(1, len(places)) if places[i][0] - places[i - 1][1] > _APART]
    edges: list[Span | None] = []
    for begin, end in itertools.pairwise([0, *cuts, len(anchors)]):
        if begin == end:
            continue
        low = max(0, places[begin][0] - _REACH)
        passage = levels[low : places[end - 1][1] + _REACH]
        bottom, top = np.percentile(passage, (5, 95)) if len(passage) else (0.0, 0.0)
        if top - bottom < _LEAST_RANGE:
            edges += [None] * (end - begin)
            continue
        last = len(passage) - 1
        inside = [(min(a - low, last), min(max(a, b) - low, last)) for a, b in places[begin:end]]
        spans = _passage_edges(_Passage(passage, bottom, top), inside, [a.size for a in anchors[begin:end]])
        edges += [((low + a) * LEVEL_SECONDS, (low + b) * LEVEL_SECONDS) for a, b in spans]
    return edges


@dataclass(frozen=True, slots=True)
class _Boundary:
    """A word ends at the level `end`, and the next one starts at `start`."""

    end: int
    start: int
    cost: float


class _Passage:
    """Levels (n,) scaled to [0, 1], which `low` and `high` become."""

    def __init__(self, levels: Levels, low: float, high: float) -> None:
        self.levels = np.clip((levels - low) / (high - low), 0, 1).tolist()
        self.quiet = [level < _QUIET for level in self.levels]

    def boundaries(self, begin: int, end: int) -> list[_Boundary]:
        """Of two words whose tokens are at these levels: each quiet stretch and each lowest level between."""
        if end <= begin:
            return [_Boundary(begin, begin, 0.0)]
        levels, places, at = self.levels, list[_Boundary](), begin
        while at <= end:
            stop = at
            while stop <= end and self.quiet[stop]:
                stop += 1
            if stop > at:
                pause = _PAUSE * min(1.0, (stop - at) / _LONGEST_PAUSE)
                places.append(_Boundary(at, stop, _DEPTH * min(levels[at:stop]) - pause))
                at = stop
                continue
            if (at == begin or levels[at] <= levels[at - 1]) and (at == end or levels[at] <= levels[at + 1]):
                places.append(_Boundary(at, at, _DEPTH * levels[at]))
            at += 1
        return places

    def onset(self, token: int) -> int:
        """Where the word begins whose first token is at this level, if no word is before it."""
        return token - self._edge(self.quiet[max(0, token - _REACH) : token + 1][::-1]) + 1

    def offset(self, token: int) -> int:
        """Where the word ends whose last token is at this level, if no word is after it."""
        return token + self._edge(self.quiet[token : token + _REACH])

    def sounding(self, token: int) -> int:
        """The nearest level that is not quiet: a token may come in the pause before or after its word."""
        near = (token + sign * far for far in range(_STRAY + 1) for sign in (-1, 1))
        return next((at for at in near if 0 <= at < len(self.quiet) and not self.quiet[at]), token)

    @staticmethod
    def _edge(quiet: list[bool]) -> int:
        """How many levels come before the first long quiet stretch, or before the quiet at the end."""
        run = 0
        for i, is_quiet in enumerate(quiet):
            run = run + 1 if is_quiet else 0
            if run == _SILENCE:
                return max(1, i + 1 - run)
        return max(1, len(quiet) - run)


def _passage_edges(
    passage: _Passage, anchors: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> list[tuple[int, int]]:
    """The cheapest boundaries, by the Viterbi algorithm: first with the mean of seconds a letter, then with
    the median of the words so found."""
    flat = [passage.sounding(token) for anchor in anchors for token in anchor]
    flat = list(itertools.accumulate(flat, max))
    anchors = list(zip(flat[::2], flat[1::2], strict=True))
    first, last = passage.onset(anchors[0][0]), passage.offset(anchors[-1][1])
    inner = [passage.boundaries(a[1], b[0]) for a, b in itertools.pairwise(anchors)]
    slots = [[_Boundary(first, first, 0.0)], *inner, [_Boundary(last, last, 0.0)]]
    pace = max(1, last - first) / sum(sizes)
    words = _cheapest(slots, sizes, pace)
    if len(words) < 3:
        return words
    paces = [max(1, end - start) / size for (start, end), size in zip(words, sizes, strict=True)]
    return _cheapest(slots, sizes, float(np.median(paces)))


def _cheapest(
    slots: Sequence[Sequence[_Boundary]], sizes: Sequence[int], pace: float
) -> list[tuple[int, int]]:
    costs, back = np.zeros(1), []
    for before, after, size in zip(slots, slots[1:], sizes, strict=False):
        starts, ends = np.array([b.start for b in before]), np.array([b.end for b in after])
        lengths = np.maximum(ends - starts[:, None], 1) / (pace * size)
        total = costs[:, None] + np.log(lengths) ** 2 / (2 * _SPREAD**2)
        back.append(total.argmin(0))
        costs = total.min(0) + [b.cost for b in after]
    path = [int(costs.argmin())]
    for choices in reversed(back):
        path.append(int(choices[path[-1]]))
    chosen = [slot[i] for slot, i in zip(slots, reversed(path), strict=True)]
    return [(a.start, max(a.start, b.end)) for a, b in itertools.pairwise(chosen)]
