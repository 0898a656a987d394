"""Long recordings in pieces that are decoded on their own, and the pieces' hypotheses joined again.

A piece begins at an encoder frame of the recording, so that its frames are whole numbers on the recording's
clock. Neighbours that divide continuous speech overlap. Where they do, both have recognised the same words,
and the join passes from one to the other at a token on which both agree, near the middle of the overlap: the
words at the edges of a piece, which lack context, are taken from its neighbour.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maya.audio.vad import SpeechDetector, SpeechSpan, VADConfig
from maya.encoders import FrameClock


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """samples (n,): audio of a recording from the start of its encoder frame `first_frame`. frame_samples:
    samples of a frame. spans: the speech in it, seconds of the recording; empty where it was not detected."""

    first_frame: int
    frame_samples: int
    samples: Tensor
    spans: tuple[SpeechSpan, ...] = ()

    @property
    def end_frame(self) -> int:
        """The frame of the recording that begins at or after the end of the samples."""
        return self.first_frame - (-len(self.samples) // self.frame_samples)


class _AudioBuffer:
    """The part of a recording that is still needed. Positions are samples from the recording's start."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._first = 0
        self.end = 0

    def append(self, block: Tensor) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def take(self, start: int, stop: int) -> Tensor:
        """A copy of the samples from `start` to `stop` or the end."""
        parts, first = [], self._first
        for block in self._blocks:
            begin, end = max(start - first, 0), min(stop - first, len(block))
            if begin < end:
                parts.append(block[begin:end])
            first += len(block)
        return torch.cat(parts) if parts else torch.zeros(0)

    def drop(self, before: int) -> None:
        """Forget whole blocks that end before this sample."""
        while self._blocks and self._first + len(self._blocks[0]) <= before:
            self._first += len(self._blocks.pop(0))


def samples_of_frame(clock: FrameClock) -> int:
    """Samples from one encoder frame to the next."""
    return clock.features.hop_samples * clock.encoder.subsampling_factor


def whole_piece(blocks: Iterable[Tensor], clock: FrameClock) -> Iterator[Piece]:
    """The recording in one piece."""
    samples = [*blocks]
    if samples:
        yield Piece(first_frame=0, frame_samples=samples_of_frame(clock), samples=torch.cat(samples))


def overlapping_pieces(
    blocks: Iterable[Tensor], clock: FrameClock, *, window_seconds: float, overlap_seconds: float
) -> Iterator[Piece]:
    """Windows of the recording, each of which overlaps the one before. blocks (n,) at the model's rate."""
    frame = samples_of_frame(clock)
    window = max(2, int(window_seconds / clock.seconds))
    overlap = min(int(overlap_seconds / clock.seconds), window // 2)
    buffer, first = _AudioBuffer(), 0

    def piece() -> Piece:
        samples = buffer.take(first * frame, (first + window) * frame)
        return Piece(first_frame=first, frame_samples=frame, samples=samples)

    for block in blocks:
        buffer.append(block)
        while buffer.end > (first + window) * frame:
            yield piece()
            first += window - overlap
            buffer.drop(first * frame)
    if buffer.end > 0:
        yield piece()


def speech_pieces(
    blocks: Iterable[Tensor], clock: FrameClock, vad: VADConfig, *, window_seconds: float,
    overlap_seconds: float, join_seconds: float,
) -> Iterator[Piece]:  # fmt: skip
    """The parts of a recording with speech, of at most about `window_seconds`.

    Spans with a pause of at most `join_seconds` between them share a piece. Speech that is longer than a
    window is cut in its longest pause, and the pieces overlap there by `overlap_seconds`.
    """
    rate, frame = clock.features.sample_rate, samples_of_frame(clock)
    vad = replace(vad, max_speech_seconds=min(vad.max_speech_seconds, window_seconds))
    grouping = _Grouping(window_seconds, min(overlap_seconds, window_seconds / 2), join_seconds)
    detector, buffer = SpeechDetector(vad, rate), _AudioBuffer()

    def pieces(groups: list["_SpanGroup"]) -> Iterator[Piece]:
        for group in groups:
            first = max(0, int(group.start * rate) // frame)
            samples = buffer.take(first * frame, int(group.end * rate))
            if len(samples):
                yield Piece(first_frame=first, frame_samples=frame, samples=samples, spans=tuple(group.spans))

    for block in blocks:
        buffer.append(block)
        yield from pieces(grouping.push(detector.push(block), detector.settled))
        buffer.drop(int(grouping.earliest(detector.settled) * rate) - frame)
    yield from pieces(grouping.push(detector.finish(), float("inf")))


@dataclass(slots=True)
class _SpanGroup:
    """Spans that share a piece, and the seconds of audio that the piece takes."""

    start: float
    end: float
    spans: list[SpeechSpan]


class _Grouping:
    """Collects spans into groups. A group is given out when no later span can change it."""

    def __init__(self, window: float, overlap: float, join: float) -> None:
        self.window, self.overlap, self.join = window, overlap, join
        self._open: _SpanGroup | None = None

    def push(self, spans: list[SpeechSpan], settled: float) -> list[_SpanGroup]:
        """The next spans; no later one begins before `settled`, in seconds."""
        done = []
        for span in spans:
            group = self._open
            if group is None:
                self._open = _SpanGroup(span.start, span.end, [span])
                continue
            pause = span.start - group.end
            if pause <= self.join and span.end - group.start <= self.window:
                group.end = span.end
                group.spans.append(span)
                continue
            start = span.start
            if pause <= self.join:  # continuous speech: both pieces reach over the cut
                middle = group.end + pause / 2
                group.end = middle + self.overlap / 2
                start = max(group.start, middle - self.overlap / 2)
            done.append(group)
            self._open = _SpanGroup(start, span.end, [span])
        if self._open is not None and settled - self._open.end > self.join:
            done.append(self._open)
            self._open = None
        return done

    def earliest(self, settled: float) -> float:
        """Seconds before which no later piece begins."""
        start = settled if self._open is None else min(self._open.start, settled)
        return max(0.0, start - self.overlap)
