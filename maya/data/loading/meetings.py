"""Meetings, made while training: turns of several speakers, with pauses and overlaps, and who speaks when.

A meeting begins with an utterance of the data and goes on with others of its speaker and of a few more. As in
Landini et al. 2022 (arXiv:2204.00890), a turn of the same speaker follows after a pause, and that of another
speaker after a pause or, with some probability, before the turn ends. Their statistics are counts of real
conversations; here pauses and overlaps are exponential, with means that the caller sets. About 40 % of the
changes of speaker overlap in Heldner and Edlund 2010 (Journal of Phonetics 38), which is the default.

A meeting is a function of (seed, epoch, id of its first utterance) alone, as in `maya.data.loading.mixing`.
Utterances may have a label `turns`, such as "0.31-2.4 speech; 2.9-4.1 speech": without, all of them counts as
speech. The meeting has the same label, with a name for each speaker.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maya.audio.noises import white_noise
from maya.config import config
from maya.data.loading.augment import NoiseConfig, draws_of, recordings_in
from maya.data.loading.mixing import PEAK, Mixed, at_level, noise_beside
from maya.data.table.spans import events_in, label_of
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.ranges import Ascending, BelowOne, Count, Finite, NonNegFloat, PosFloat, Seed, Share

TURNS = "turns"  # the label of who speaks when


@config
class MeetingConfig:
    """Meetings for diarization; off with `speakers=0,0`.

    speakers: range of their number in a meeting. seconds: no turn ends later, unless all speakers have not
    spoken yet. overlap: share of the time with speech in which two speak; with the default overlap_prob at
    most about 0.2 is reached. overlap_prob: of the changes of speaker, for a turn that begins before the last
    one ends. pause_seconds: mean of the pauses. stay: probability that the same speaker goes on. level_db:
    range of the level of a speaker relative to the first utterance. one_language: others speak the language
    of the first, if there are enough of them. noise: of recordings, over the whole meeting. floor_db: range
    of the level in dBFS of white noise, so that pauses are not digital silence. Rooms and other changes of
    single utterances belong to data.augment; speeds do not go with meetings.
    """

    speakers: Annotated[tuple[Count, Count], Ascending()] = (0, 0)
    seconds: PosFloat = 30.0
    overlap: BelowOne = 0.1
    overlap_prob: Share = 0.4
    pause_seconds: NonNegFloat = 0.5
    stay: BelowOne = 0.25
    level_db: Annotated[tuple[Finite, Finite], Ascending()] = (-5.0, 5.0)
    one_language: bool = True
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(snr_db=(5.0, 20.0)))
    floor_db: Annotated[tuple[Finite, Finite], Ascending()] = (-75.0, -55.0)
    seed: Seed = 0

    @property
    def on(self) -> bool:
        return self.speakers[1] > 0


class Turn(NamedTuple):
    """An utterance in a meeting. item: its number in the data; speaker: number of the voice. spans: (start,
    end) of its speech in seconds of the meeting."""

    item: int
    speaker: int
    spans: list[tuple[float, float]]

    @property
    def start(self) -> float:
        return self.spans[0][0]

    @property
    def end(self) -> float:
        return self.spans[-1][1]


class SimulatedMeeting(NamedTuple):
    """audio (N,), and its turns in the order in which they begin."""

    audio: Tensor
    turns: list[Turn]


@dataclass(slots=True)
class _Clock:
    """The course of a meeting, in seconds. end: of all speech so far; last: the length of the latest turn.
    speech, overlapped: time with speech, and with two at once."""

    end: float = 0.0
    last: float = 0.0
    speech: float = 0.0
    overlapped: float = 0.0

    def add(self, start: float, seconds: float) -> None:
        overlap = min(max(0.0, self.end - start), seconds)
        self.speech += seconds - overlap
        self.overlapped += overlap
        self.end, self.last = max(self.end, start + seconds), seconds


class MeetingMixer:
    """Makes meetings of the utterances of a table, at `sample_rate` Hz.

    Raises MayaError for data with fewer speakers than a meeting has, or with utterances of unknown speakers,
    and for a noise folder without audio.
    """

    def __init__(self, cfg: MeetingConfig, utterances: Utterances, sample_rate: int) -> None:
        self.cfg, self.utterances, self.sample_rate = cfg, utterances, sample_rate
        self.speakers = np.asarray(utterances.speakers)
        numbers = np.unique(self.speakers)
        if cfg.speakers[0] < 1:
            raise MayaError(f"data.meetings.speakers={cfg.speakers}: a meeting has at least one speaker")
        if len(numbers) < cfg.speakers[1] or (numbers < 0).any():
            raise MayaError(
                f"meetings of {cfg.speakers[1]} speakers need utterances of as many, all of them named; the "
                f"data name {(numbers >= 0).sum()}: is the column speaker of the manifest filled in?"
            )
        order = np.argsort(self.speakers, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self.speakers[order])) + 1)
        self.own = {int(self.speakers[part[0]]): part for part in parts}
        self.languages = {name: int(utterances.langs[part[0]]) for name, part in self.own.items()}
        self.noises = recordings_in(cfg.noise.folders, "meetings.noise") if cfg.noise.prob > 0 else []

    def __call__(self, item: int, audio: Tensor, epoch: int, read: Callable[[int], Tensor]) -> Mixed:
        """The meeting that begins with utterance `item`, without its sources, and its label."""
        made = self.meeting(item, audio, epoch, read)
        events = [(f"s{turn.speaker}", *span) for turn in made.turns for span in turn.spans]
        return Mixed(made.audio, None, {TURNS: label_of(events)})

    def meeting(
        self, item: int, audio: Tensor, epoch: int, read: Callable[[int], Tensor]
    ) -> SimulatedMeeting:
        """The meeting that begins with utterance `item`, whose audio (N,) is given; `read` gives that of any
        other."""
        cfg, rng = self.cfg, draws_of(f"{self.cfg.seed}/{epoch}/{self.utterances.ids[item]}/meeting")
        voices = self.voices(item, rng)
        levels = dict(zip(voices, [0.0, *rng.uniform(*cfg.level_db, size=len(voices) - 1)], strict=True))
        orders = {voice: self._order(voice, item, rng) for voice in voices}
        clock, ends, voice = _Clock(), dict.fromkeys(voices, 0.0), voices[0]
        turns: list[Turn] = []
        sounds: list[tuple[int, Tensor]] = []
        while True:
            all_spoke, before = len(turns) >= len(voices), voice
            voice = self._next(voice, voices, rng) if all_spoke else voices[len(turns)]
            index = next(orders[voice])
            sound = at_level(read(index), audio, float(levels[voice])) if turns else audio
            spans = self._spans(index, len(sound) / self.sample_rate)
            seconds = spans[-1][1] - spans[0][0]
            start = max(ends[voice], self._start(clock, seconds, voice != before, rng))
            if all_spoke and start + seconds > cfg.seconds:
                break
            clock.add(start, seconds)
            shift = start - spans[0][0]
            turns.append(Turn(index, voice, [(a + shift, b + shift) for a, b in spans]))
            ends[voice] = turns[-1].end
            sounds.append((round(shift * self.sample_rate), sound))
        turns.sort(key=lambda turn: turn.start)
        return SimulatedMeeting(self._sum(sounds, rng), turns)

    def voices(self, item: int, rng: np.random.Generator) -> list[int]:
        """The speakers of a meeting in the order of their first turns, that of `item` first."""
        first, (low, high) = int(self.speakers[item]), self.cfg.speakers
        count = int(rng.integers(low, high + 1))
        others = [voice for voice in self.own if voice != first]
        near = [voice for voice in others if self.languages[voice] == self.languages[first]]
        if self.cfg.one_language and len(near) >= count - 1:
            others = near
        return [first, *(int(voice) for voice in rng.choice(others, count - 1, replace=False))]

    def _order(self, voice: int, item: int, rng: np.random.Generator) -> Iterator[int]:
        """The utterances of a speaker in a random order, again and again; `item` before all."""
        order = [int(i) for i in rng.permutation(self.own[voice])]
        return itertools.cycle(sorted(order, key=lambda i: i != item))

    def _next(self, voice: int, voices: list[int], rng: np.random.Generator) -> int:
        others = [other for other in voices if other != voice]
        if not others or rng.random() < self.cfg.stay:
            return voice
        return others[int(rng.integers(len(others)))]

    def _start(self, clock: _Clock, seconds: float, changes: bool, rng: np.random.Generator) -> float:
        """Where the next turn begins. The mean of an overlap is what brings the expected share to
        `cfg.overlap`; nobody speaks before the latest turn began."""
        cfg = self.cfg
        if changes and rng.random() < cfg.overlap_prob:
            missing = cfg.overlap * (clock.speech + seconds) - clock.overlapped
            mean = max(0.0, missing) / (cfg.overlap_prob * (1 - cfg.stay))
            return clock.end - min(rng.exponential(mean), clock.last, seconds)
        return clock.end + rng.exponential(cfg.pause_seconds)

    def _spans(self, index: int, seconds: float) -> list[tuple[float, float]]:
        """(start, end) of the speech of an utterance of so many seconds, by its label."""
        label = self.utterances.labels([index]).get(TURNS, [None])[0]
        spans = [(start, min(end, seconds)) for _, start, end in events_in(label) if start < seconds]
        return sorted(spans) or [(0.0, seconds)]

    def _sum(self, sounds: list[tuple[int, Tensor]], rng: np.random.Generator) -> Tensor:
        """(N,) the sounds at their places, with noise. What comes before the meeting begins is cut."""
        audio = torch.zeros(max(place + len(sound) for place, sound in sounds))
        for place, sound in sounds:
            audio[max(0, place) : place + len(sound)] += sound[max(0, -place) :]
        if rng.random() < self.cfg.noise.prob:
            audio += noise_beside(audio, self.cfg.noise, self.noises, self.sample_rate, rng)
        level = 10 ** (float(rng.uniform(*self.cfg.floor_db)) / 20)
        audio += level * white_noise(len(audio), int(rng.integers(2**31)))
        return audio * (PEAK / max(PEAK, float(audio.abs().max())))
