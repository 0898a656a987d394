"""Windows of speech, their speakers, and turns: of a stream, and of a whole recording."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from maya.align.speakers.clustering import OnlineClusters, cluster
from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.encoder import SpeakerEncoder, load_speakers
from maya.align.speakers.end_to_end import EndToEndSpeakers
from maya.audio.resampling import ResamplingStream
from maya.audio.vad.config import VADConfig
from maya.audio.vad.detector import SpeechDetector
from maya.audio.vad.spans import SpeechSpan
from maya.decode.hypothesis import SpeakerTurn

_MARGIN_SECONDS = 1.0  # of audio before the present, in which speech may begin
_LAG_SECONDS = 0.15  # of the voice detector and a block: so late is the beginning of speech noticed
_BATCH = 64  # windows
_GROUPS = 2000  # of a stream, whose speakers can still be looked up


class SpeechState(Protocol):
    """What is needed of `maya.audio.vad.spans.SpanTracker`."""

    @property
    def speaking(self) -> bool: ...

    @property
    def start_seconds(self) -> float: ...

    @property
    def voice_end_seconds(self) -> float: ...


@dataclass(eq=False, kw_only=True, slots=True)
class SpeechWindow:
    """A piece of speech. samples: audio (N,) at the encoder's rate, none once it has an embedding.
    speaker: its number, -1 before it is known."""

    start: float
    end: float
    samples: Tensor
    speaker: int = -1


@dataclass(eq=False, kw_only=True, slots=True)
class Group:
    """Speech without a long pause, with its windows in order; without any if it is short. is_whole: no more
    speech belongs to it."""

    start: float
    end: float
    is_whole: bool = False
    windows: list[SpeechWindow] = field(default_factory=list)


class SpeakerStream:
    """The windows of one stream of audio, and their speakers.

    `push` gives the windows that are complete, which the caller embeds, together with those of other streams
    if there are any; `assign` then takes the embeddings.
    """

    def __init__(self, cfg: SpeakersConfig, sample_rate: int, rate: int = 16000) -> None:
        self.cfg, self.rate = cfg, rate
        self.clusters = OnlineClusters(cfg)
        self._resampler = ResamplingStream(sample_rate, rate)
        self._audio, self._first = torch.zeros(0), 0  # the last samples, and the number of the first of them
        self._groups: deque[Group] = deque(maxlen=_GROUPS)
        self._group: Group | None = None
        self._windows: list[SpeechWindow] = []  # whose speakers may still change

    def push(self, samples: Tensor, speech: SpeechState, *, last: bool = False) -> list[SpeechWindow]:
        """Samples (n,) at `sample_rate`, and the state of the voice detector after them -> windows that are
        complete now. last: no speech that follows belongs to that before."""
        audio = torch.from_numpy(self._resampler.push(samples.numpy()))
        self._audio = torch.cat([self._audio, audio])
        now = (self._first + len(self._audio)) / self.rate
        if speech.speaking and self._group is None:
            start = max(speech.start_seconds, self._groups[-1].end if self._groups else 0.0)
            self._group = Group(start=start, end=start)
            self._groups.append(self._group)
        windows: list[SpeechWindow] = []
        if self._group is not None:
            group, group_end = self._group, now if speech.speaking else min(now, speech.voice_end_seconds)
            group.end = max(group.start, group_end)
            if last or (not speech.speaking and now - group.end >= self.cfg.join_seconds + _LAG_SECONDS):
                windows = self._cut(group, whole=True)
                group.is_whole, self._group = True, None
            else:
                windows = self._cut(group, whole=False)
        self._forget(now)
        return windows

    def _forget(self, now: float) -> None:
        """Drop the samples that no window can need."""
        keep = now - max(_MARGIN_SECONDS, self.cfg.window_seconds + self.cfg.join_seconds) - _LAG_SECONDS
        if self._group is not None:
            # The last window of speech begins a window before its end, and all others before that do too.
            begun = self._group.start + len(self._group.windows) * self.cfg.hop_seconds
            keep = min(keep, begun)
        begin = max(0, int(keep * self.rate) - self._first)
        self._audio, self._first = self._audio[begin:], self._first + begin

    def assign(self, windows: Sequence[SpeechWindow], embeddings: Tensor) -> None:
        """The embeddings (W, D) of windows that `push` gave, in their order."""
        for window, embedding in zip(windows, embeddings, strict=True):
            window.samples = window.samples[:0]
            self.clusters.add(embedding, window.end - window.start)
            self._windows.append(window)
        speakers = self.clusters.speakers
        del self._windows[: len(self._windows) - len(speakers)]
        for window, speaker in zip(self._windows, speakers, strict=True):
            window.speaker = speaker

    def turns(self, since: float = 0.0) -> list[SpeakerTurn]:
        """Who spoke from `since` on, in order of time."""
        return turns_of([group for group in self._groups if group.end > since])

    def _cut(self, group: Group, *, whole: bool) -> list[SpeechWindow]:
        bounds = window_bounds(group.start, group.end, self.cfg, whole=whole)[len(group.windows) :]
        windows = [cut_window(self._audio, self._first, self.rate, *own) for own in bounds]
        group.windows += windows
        return windows


def window_bounds(
    start: float, end: float, cfg: SpeakersConfig, *, whole: bool = False
) -> list[tuple[float, float]]:
    """(start, end) of the windows of speech, in seconds. whole: no speech follows, so its end has a window
    too; and speech that is shorter than a window is one, if it has the least length."""
    size = cfg.window_seconds
    count = max(0, math.floor((end - start - size) / cfg.hop_seconds + 1e-9) + 1)
    bounds = [(start + i * cfg.hop_seconds, start + i * cfg.hop_seconds + size) for i in range(count)]
    if whole and not bounds and end - start >= cfg.least_seconds:
        return [(start, end)]
    if whole and bounds and end - bounds[-1][1] > cfg.hop_seconds / 2:
        bounds.append((end - size, end))
    return bounds


def cut_window(audio: Tensor, first: int, rate: int, start: float, end: float) -> SpeechWindow:
    """The window of audio (n,) whose first sample has the number `first`."""
    begin = max(0, round(start * rate) - first)
    samples = audio[begin : begin + round((end - start) * rate)].clone()
    return SpeechWindow(start=start, end=end, samples=samples)


def turns_of(groups: Sequence[Group]) -> list[SpeakerTurn]:
    """Turns of the speech in groups. Each moment belongs to the window whose middle is nearest; a group
    without windows to the speaker of the nearest one with."""
    turns: list[SpeakerTurn] = []
    for place, group in enumerate(groups):
        windows = [window for window in group.windows if window.speaker >= 0]
        middles = [(window.start + window.end) / 2 for window in windows]
        bounds = [group.start, *((a + b) / 2 for a, b in zip(middles, middles[1:], strict=False)), group.end]
        speakers = [window.speaker for window in windows]
        if not windows:
            near = min(
                (other for other in groups if other.windows and other.windows[0].speaker >= 0),
                key=lambda other: max(group.start - other.end, other.start - group.end), default=None,
            )  # fmt: skip
            if near is None:
                continue
            speakers = [near.windows[-1 if near.start < groups[place].start else 0].speaker]
        for speaker, start, end in zip(speakers, bounds, bounds[1:], strict=False):
            name = speaker_name(speaker)
            if turns and turns[-1].speaker == name and turns[-1].end == start:
                start = turns.pop().start
            turns.append(SpeakerTurn(speaker=name, start=start, end=end))
    return turns


def speaker_name(number: int) -> str:
    """A, B, ... of 0, 1, ..."""
    return chr(ord("A") + number)


def diarize(
    blocks: Iterable[Tensor], sample_rate: int, cfg: SpeakersConfig | None = None,
    vad: VADConfig | None = None, encoder: SpeakerEncoder | None = None,
) -> list[SpeakerTurn]:  # fmt: skip
    """Who speaks when in a whole recording: blocks of its samples (n,) at `sample_rate` -> turns.

    Memory grows with its speech by 2 kB a second. A run with a diarization head in the place of an encoder
    needs no voice detector, and reads all of it at once. Raises MayaError where the weights are missing.
    """
    cfg = cfg or SpeakersConfig()
    speakers = encoder or load_speakers(cfg.weights)
    if isinstance(speakers, EndToEndSpeakers):
        resampler = ResamplingStream(sample_rate, speakers.rate)
        parts = [resampler.push(block.numpy()) for block in blocks]
        return speakers.turns(torch.from_numpy(np.concatenate([*parts, resampler.finish()])))
    groups, embeddings = speech_embeddings(blocks, sample_rate, cfg, vad, speakers)
    windows = [window for group in groups for window in group.windows]
    if windows:
        seconds = torch.tensor([window.end - window.start for window in windows])
        for window, speaker in zip(windows, cluster(embeddings, seconds, cfg), strict=True):
            window.speaker = speaker
    return turns_of(groups)


def speech_embeddings(
    blocks: Iterable[Tensor], sample_rate: int, cfg: SpeakersConfig, vad: VADConfig | None,
    encoder: SpeakerEncoder,
) -> tuple[list[Group], Tensor]:  # fmt: skip
    """The speech of a recording with its windows, and their embeddings (W, D)."""
    detector, resampler = SpeechDetector(vad, sample_rate), ResamplingStream(sample_rate, encoder.rate)
    groups: list[Group] = []
    waiting: list[SpeechWindow] = []
    done: list[Tensor] = []
    audio, first = torch.zeros(0), 0

    def settle(settled: float) -> None:
        """Cut the groups to which no speech after `settled` belongs, and embed what fills a batch."""
        for group in groups[-2:] if math.isfinite(settled) else groups:
            if not group.is_whole and settled - group.end >= cfg.join_seconds:
                bounds = window_bounds(group.start, group.end, cfg, whole=True)
                group.windows = [cut_window(audio, first, encoder.rate, *own) for own in bounds]
                group.is_whole = True
                waiting.extend(group.windows)
        while len(waiting) >= (_BATCH if math.isfinite(settled) else 1):
            batch = waiting[:_BATCH]
            done.append(encoder.embed([window.samples for window in batch]))
            del waiting[:_BATCH]
            for window in batch:
                window.samples = window.samples[:0]

    def take(spans: Iterable[SpeechSpan]) -> None:
        for span in spans:
            if groups and span.start - groups[-1].end < cfg.join_seconds:
                groups[-1].end = span.end
            else:
                settle(span.start)
                groups.append(Group(start=span.start, end=span.end))

    for block in blocks:
        audio = torch.cat([audio, torch.from_numpy(resampler.push(block.numpy()))])
        take(detector.push(block))
        settle(detector.settled)
        keep = groups[-1].start if groups and not groups[-1].is_whole else detector.settled
        begin = min(len(audio), max(0, int(keep * encoder.rate) - first))
        audio, first = audio[begin:], first + begin
    audio = torch.cat([audio, torch.from_numpy(resampler.finish())])
    take(detector.finish())
    settle(math.inf)
    return groups, torch.cat(done) if done else torch.zeros(0, 1)
