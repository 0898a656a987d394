"""The hypotheses of a recording's pieces as one hypothesis, without lost and without doubled words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maya.decode.hypothesis import Hypothesis, TextSegment
from maya.decode.long.pieces import Piece
from maya.text.tokenizer import Tokenizer

_WORD = "\u2581"  # begins a piece of the tokenizer that begins a word
_TOLERANCE = 0.4  # seconds between the same token in two pieces
_TIMES = ("frames", "durations", "spans")
_LISTS = ("tokens", "frames", "durations", "scores", "confidences", "spans")


@dataclass(frozen=True, slots=True)
class _Token:
    token: int
    frame: int


class Joiner:
    """`add` each piece with its hypothesis, in order, then `finish`.

    Frames of the result count from the recording's start. pause_seconds: a pause between words that is longer
    begins another segment.
    """

    def __init__(self, tokenizer: Tokenizer, frame_seconds: float, *, pause_seconds: float = 0.8) -> None:
        self.tokenizer, self.frame_seconds = tokenizer, frame_seconds
        self.pause = pause_seconds / frame_seconds
        self.hyp = Hypothesis(frame_seconds=frame_seconds)
        self._end = 0  # frame at which the last piece ends
        self._starts: list[int] = []  # tokens that begin a piece after a pause
        self._without_times: list[TextSegment] = []

    def add(self, piece: Piece, hyp: Hypothesis) -> None:
        """hyp: of the piece alone, its frames from the start of the piece."""
        frames = [piece.first_frame + frame for frame in hyp.frames]
        begin = piece.first_frame * self.frame_seconds
        moved: dict[str, list[Any]] = {
            "frames": frames,
            "spans": [(start + begin, end + begin) for start, end in hyp.spans],
        }
        own, total = len(self.hyp.tokens), len(hyp.tokens)
        timeless = bool(self._without_times or (total and not frames))
        if timeless and self.hyp.frames:  # earlier pieces have times: only their segments keep them
            self._without_times = self._segments()
            for name in _TIMES:
                getattr(self.hyp, name).clear()
        if self.hyp.language is None:
            self.hyp.language, self.hyp.language_probability = hyp.language, hyp.language_probability
        kept, skipped = own, 0
        if piece.first_frame >= self._end - 1:  # a piece begins at a whole frame, up to one before its audio
            self._starts.append(own)
        elif timeless:
            skipped = _repeated_tokens(self.hyp.tokens, hyp.tokens)
        else:
            kept, skipped = self._passage(hyp, frames, piece.first_frame)
        for name in _LISTS:
            if timeless and name in _TIMES:
                continue
            values = moved.get(name, getattr(hyp, name))
            target = getattr(self.hyp, name)
            if len(target) == own:  # a list that the method fills in
                del target[kept:]
            target += values[skipped:]
        while self._starts and self._starts[-1] > kept:
            self._starts.pop()
        if timeless and total:
            start, end = piece.first_frame * self.frame_seconds, piece.end_frame * self.frame_seconds
            text = self.tokenizer.decode(hyp.tokens[skipped:])
            self._without_times.append(TextSegment(text=text, start=start, end=end))
        self._end = max(self._end, piece.end_frame)

    def _passage(self, hyp: Hypothesis, frames: list[int], begin: int) -> tuple[int, int]:
        """The tokens so far that are kept, and those of the next piece that are skipped."""
        slack = max(2, round(_TOLERANCE / self.frame_seconds))
        first = len(self.hyp.frames)
        while first > 0 and self.hyp.frames[first - 1] >= begin - slack:
            first -= 1
        last = sum(frame < self._end + slack for frame in frames)
        before = [_Token(t, f) for t, f in zip(self.hyp.tokens[first:], self.hyp.frames[first:], strict=True)]
        after = [_Token(t, f) for t, f in zip(hyp.tokens[:last], frames[:last], strict=True)]
        kept, skipped = passage(before, after, middle=(begin + self._end) / 2, slack=slack)
        return first + kept, skipped

    def finish(self) -> Hypothesis:
        """The hypothesis of the recording, with text and segments."""
        hyp = self.hyp
        hyp.segments = self._without_times or self._segments()
        hyp.text = " ".join(segment.text for segment in hyp.segments if segment.text)
        return hyp

    def _segments(self) -> list[TextSegment]:
        hyp, starts = self.hyp, {*self._starts}
        words = [piece.startswith(_WORD) for piece in self.tokenizer.pieces(hyp.tokens)]
        cuts = [
            i for i in range(1, len(hyp.tokens))
            if i in starts or (words[i] and hyp.frames[i] - self._token_end(i - 1) > self.pause)
        ]  # fmt: skip
        bounds = zip([0, *cuts], [*cuts, len(hyp.tokens)], strict=True)
        return [self._segment(a, b) for a, b in bounds if a < b]

    def _token_end(self, i: int) -> int:
        return self.hyp.frames[i] + self.hyp.durations[i]

    def _segment(self, begin: int, end: int) -> TextSegment:
        hyp = self.hyp
        confidences = hyp.confidences[begin:end]
        return TextSegment(
            text=self.tokenizer.decode(hyp.tokens[begin:end]),
            start=hyp.frames[begin] * self.frame_seconds,
            end=max(self._token_end(i) for i in range(begin, end)) * self.frame_seconds,
            confidence=sum(confidences) / len(confidences) if confidences else None,
        )


def passage(
    before: Sequence[_Token], after: Sequence[_Token], *, middle: float, slack: int
) -> tuple[int, int]:
    """Where a join passes from the tokens of a piece to those of the next: (i, j) for before[:i] + after[j:].

    Both are the tokens of the overlap. They are aligned by a longest common subsequence, in which tokens
    match that are the same and at most `slack` frames apart; among equally long ones that with the least sum
    of distances. The join is at the match nearest to the frame `middle`, or, without a match, in the longest
    pause around it.
    """
    matches = _common_subsequence(before, after, slack)
    if matches:
        i, j = min(matches, key=lambda m: abs(before[m[0]].frame + after[m[1]].frame - 2 * middle))
        return i + 1, j + 1
    cut = _longest_pause([t.frame for t in (*before, *after)], middle, slack)
    return sum(t.frame < cut for t in before), sum(t.frame < cut for t in after)


def _common_subsequence(
    before: Sequence[_Token], after: Sequence[_Token], slack: int
) -> list[tuple[int, int]]:
    """The index pairs of the best common subsequence, in order."""
    n, m = len(before), len(after)
    best = [[(0, 0)] * (m + 1) for _ in range(n + 1)]  # matches, minus their distances
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            if (distance := _distance(before[i], after[j])) <= slack:
                count, minus = best[i + 1][j + 1]
                best[i][j] = max(best[i][j], (count + 1, minus - distance))
    pairs, i, j = [], 0, 0
    while i < n and j < m:
        distance = _distance(before[i], after[j])
        count, minus = best[i + 1][j + 1]
        if distance <= slack and best[i][j] == (count + 1, minus - distance):
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _distance(a: _Token, b: _Token) -> int:
    return abs(a.frame - b.frame) if a.token == b.token else 1 << 30


def _longest_pause(frames: Sequence[int], middle: float, reach: float) -> float:
    """The centre of the longest pause between frames that comes within `reach` of the middle."""
    inside = sorted(frame for frame in frames if abs(frame - middle) <= 2 * reach)
    bounds = [middle - 2 * reach, *inside, middle + 2 * reach]
    pauses = zip(bounds, bounds[1:], strict=False)
    begin, end = max(pauses, key=lambda pause: (pause[1] - pause[0], -abs(sum(pause) / 2 - middle)))
    return (begin + end) / 2


def _repeated_tokens(before: Sequence[int], after: Sequence[int]) -> int:
    """The largest number of tokens that end `before` and begin `after`."""
    counts = range(min(len(before), len(after)), 0, -1)
    return next((n for n in counts if list(before[-n:]) == list(after[:n])), 0)
