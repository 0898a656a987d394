"""Where a long text can be cut: passages that the model decodes as they are written, and nowhere else.

An anchor is a run of tokens that occurs once in the text and once in what the model decodes. Of all anchors
those count that come in the same order in both (the longest such series). Between two cuts lies little
enough audio to be aligned as a whole."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from maya.decode.hypothesis import Hypothesis

_WORDS = (6, 4, 3)  # of a run, by which it is likely to be unique and unlikely to be chance


@dataclass(frozen=True, slots=True)
class Leaf:
    """Tokens of the text from `begin` to `end`, spoken in frames from `start` to `stop`."""

    begin: int
    end: int
    start: int
    stop: int


def leaves(
    tokens: Sequence[int], first: Sequence[int], decoded: Hypothesis, frames: int, *, most_frames: int
) -> list[Leaf]:
    """Cut a text and `frames` frames of audio, at anchors, into leaves of at most `most_frames` frames,
    longer where there is no anchor.

    tokens (U,): of the text. first: the first token of each word; the text is cut before one. decoded: greedy
    tokens with their frames and durations.
    """
    cutter = _Cutter(list(tokens), set(first), decoded, most_frames)
    cuts = cutter.cuts(0, len(tokens), 0, len(decoded.tokens), 0, frames)
    places = [(0, 0), *cuts, (len(tokens), frames)]
    return [Leaf(a, b, s, e) for (a, s), (b, e) in zip(places, places[1:], strict=False)]


class _Cutter:
    def __init__(self, tokens: list[int], first: set[int], decoded: Hypothesis, most_frames: int) -> None:
        self.tokens, self.first, self.decoded, self.most_frames = tokens, first, decoded, most_frames
        per_word = len(tokens) / max(1, len(first))
        self.lengths = sorted({max(3, round(per_word * words)) for words in _WORDS}, reverse=True)

    def cuts(self, begin: int, end: int, c: int, d: int, start: int, stop: int) -> list[tuple[int, int]]:
        """(token, frame) of cuts of the tokens from begin to end, which lie in frames from start to stop, in
        which the tokens from c to d are decoded."""
        if stop - start <= self.most_frames:
            return []
        for length in self.lengths:
            anchors = self._anchors(begin, end, c, d, length)
            chosen, last = [], start
            for token, place in anchors:
                frame = self._frame(place)
                if frame - last >= self.most_frames // 2 and stop - frame >= self.most_frames // 4:
                    chosen.append((token, place, frame))
                    last = frame
            if chosen:
                break
        else:
            return []
        cuts: list[tuple[int, int]] = []
        at = (begin, c, start)
        for token, place, frame in [*chosen, (end, d, stop)]:
            cuts += self.cuts(at[0], token, at[1], place, at[2], frame)
            cuts += [(token, frame)] * (frame < stop)
            at = (token, place, frame)
        return cuts

    def _anchors(self, begin: int, end: int, c: int, d: int, length: int) -> list[tuple[int, int]]:
        """(token of the text, decoded token) at which the middles of anchors begin, in order: first tokens of
        words."""
        ours = _unique(self.tokens, begin, end, length)
        places = _unique(self.decoded.tokens, c, d, length)
        pairs = sorted((i, places[run]) for run, i in ours.items() if run in places)
        middles = []
        for i, j in _ascending(pairs):
            inside = [n for n in range(1, length) if i + n in self.first]
            if inside:
                n = min(inside, key=lambda n: abs(2 * n - length))
                middles.append((i + n, j + n))
        return middles

    def _frame(self, place: int) -> int:
        """The frame in the middle between a token that is decoded and the one before it."""
        decoded = self.decoded
        return (decoded.frames[place - 1] + max(1, decoded.durations[place - 1]) + decoded.frames[place]) // 2


def _unique(tokens: Sequence[int], begin: int, end: int, length: int) -> dict[tuple[int, ...], int]:
    """By run of `length` tokens the place of those that occur once."""
    places: dict[tuple[int, ...], int] = {}
    for i in range(begin, end - length + 1):
        run = tuple(tokens[i : i + length])
        places[run] = -1 if run in places else i
    return {run: i for run, i in places.items() if i >= 0}


def _ascending(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest series of pairs, given in the order of the first numbers, in which the second ascend."""
    tails: list[int] = []
    last: list[int] = []  # index of the pair at the end of the best series of each length
    before = [-1] * len(pairs)
    for n, (_, j) in enumerate(pairs):
        place = bisect_left(tails, j)
        before[n] = last[place - 1] if place else -1
        tails[place : place + 1] = [j]
        last[place : place + 1] = [n]
    series, n = [], last[-1] if last else -1
    while n >= 0:
        series.append(pairs[n])
        n = before[n]
    return series[::-1]
