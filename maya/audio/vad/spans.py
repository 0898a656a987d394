"""Spans of speech from probabilities, by hysteresis with limits on their length.

The rules are those of `get_speech_timestamps` of silero-vad 6.2 (MIT licence), written for probabilities that
come piece by piece. One differs: where speech without a pause is cut, the next span begins at the cut, while
silero-vad waits for the next window above the threshold and loses what lies between.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from maya.audio.vad.config import VADConfig


@dataclass(frozen=True, slots=True)
class SpeechSpan:
    """Seconds from the start of the recording."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start


class SpanTracker:
    """Probabilities of windows in, finished spans out. The order of pushes changes nothing.

    window, rate: samples of a window and Hz. Positions inside are samples. At most one closed span and the
    pauses of the open one are kept, and speech is limited by `max_speech_seconds`: memory is constant.
    """

    def __init__(self, cfg: VADConfig, *, window: int = 512, rate: int = 16000) -> None:
        self.cfg, self.window, self.rate = cfg, window, rate
        self._pad = cfg.pad_seconds * rate
        self._longest = cfg.max_speech_seconds * rate - window - 2 * self._pad
        self._position = 0  # start of the next window
        self._start: int | None = None  # of the open span
        self._silence: int | None = None  # start of the silence at the end of the open span
        self._pause: tuple[int, int] | None = None  # the longest in the open span: start, length
        self._closed: tuple[int, int] | None = None  # the last closed span; its end is not padded yet
        self._done: list[SpeechSpan] = []
        self._voice_end = 0  # end of the last window of speech

    @property
    def start_seconds(self) -> float:
        """Where the open span begins, padded; 0 without one."""
        return max(0.0, ((self._start or 0) - self._pad) / self.rate)

    @property
    def voice_end_seconds(self) -> float:
        """The end of the last window of speech; 0 before the first."""
        return self._voice_end / self.rate

    @property
    def speaking(self) -> bool:
        """Whether a span is open."""
        return self._start is not None

    @property
    def settled(self) -> float:
        """Seconds before which no span that is still to come begins."""
        start: float = (self._position if self._start is None else self._start) - self._pad
        if self._closed is not None:
            start = min(start, self._closed[0])
        return max(0.0, start / self.rate)

    def push(self, probabilities: Iterable[float]) -> list[SpeechSpan]:
        """The next windows -> the spans that are certain now, in order."""
        for probability in probabilities:
            self._step(probability)
            self._position += self.window
            self._settle()
        return self._take()

    def finish(self, samples: int | None = None) -> list[SpeechSpan]:
        """The end of the recording, which has so many samples -> the remaining spans."""
        length = self._position if samples is None else samples
        if self._start is not None and length - self._start > self._min_speech:
            self._close(length)
        if self._closed is not None:
            start, end = self._closed
            self._emit(start, min(length, end + self._pad))
            self._closed = None
        self._start = self._silence = self._pause = None
        return self._take()

    @property
    def _min_speech(self) -> float:
        return self.cfg.min_speech_seconds * self.rate

    def _step(self, probability: float) -> None:
        here = self._position
        if probability >= self.cfg.threshold and self._silence is not None:
            length = here - self._silence
            if length > self.cfg.cut_pause_seconds * self.rate and length > (self._pause or (0, 0))[1]:
                self._pause = (self._silence, length)
            self._silence = None
        if self._start is None:
            if probability >= self.cfg.threshold:
                self._start, self._voice_end = here, here + self.window
            return
        if probability >= self.cfg.exit:
            self._voice_end = here + self.window
        if here - self._start > self._longest:
            self._cut(here, probability)
        if probability < self.cfg.exit and self._start is not None:
            if self._silence is None:
                self._silence = here
            if here - self._silence >= self.cfg.min_silence_seconds * self.rate:
                if self._silence - self._start > self._min_speech:
                    self._close(self._silence)
                self._start = self._silence = self._pause = None

    def _cut(self, here: int, probability: float) -> None:
        """Divide the open span, which is too long."""
        if self._pause is not None:
            start, length = self._pause
            self._close(start)
            self._start = start + length
        else:
            self._close(here)
            self._start = here if probability >= self.cfg.exit else None
        self._silence = self._pause = None

    def _close(self, end: int) -> None:
        """The open span ends here, and is kept until its end can be padded."""
        start = self._start
        assert start is not None
        padded = start - self._pad
        if self._closed is not None:
            padded = self._pad_between(start)
        self._closed = (int(max(0, padded)), end)

    def _pad_between(self, start: int) -> float:
        """Finish the closed span, which another follows at `start`. Returns where that one begins, padded."""
        assert self._closed is not None
        first, end = self._closed
        silence = start - end
        if silence < 2 * self._pad:
            self._emit(first, end + silence // 2)
            begin: float = start - silence // 2
        else:
            self._emit(first, end + self._pad)
            begin = start - self._pad
        self._closed = None
        return begin

    def _settle(self) -> None:
        """Finish the closed span once no other can begin within its padding."""
        if self._closed is None:
            return
        start = self._position if self._start is None else self._start
        if start - self._closed[1] >= 2 * self._pad:
            first, end = self._closed
            self._emit(first, end + self._pad)
            self._closed = None

    def _emit(self, start: float, end: float) -> None:
        self._done.append(SpeechSpan(int(start) / self.rate, int(end) / self.rate))

    def _take(self) -> list[SpeechSpan]:
        done, self._done = self._done, []
        return done
