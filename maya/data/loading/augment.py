"""Augmentation of training audio on the CPU: rooms, noise, narrow bands, codecs and levels; and the draw of
formant warps, which the features carry out (maya.features.warp).

The changes to an utterance are a function of (seed, epoch, id) alone. They do not depend on the number of
workers, ranks or batches, and a resumed run gets the same audio as an uninterrupted one. Switching one kind
of change on leaves the draws of the others as they are. Nothing here changes the number of samples. A change
of speed does, so it belongs to the plan (maya.data.plan), which needs to know durations.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from maya.audio.byte_ranges import ByteRange, file_stamp
from maya.audio.codecs import CODECS, through_codec
from maya.audio.decoding import decode, read_segment
from maya.audio.load import resample
from maya.audio.tar_index import index_tar
from maya.config import config
from maya.data.corpus.common import AUDIO_SUFFIXES
from maya.data.corpus.walk import walk
from maya.data.loading.acoustics import (
    EQUALIZER_HZ,
    SILENT,
    MadeNoise,
    MadeRoom,
    add_noise,
    band_limit,
    equalize,
    made_noise,
    made_room,
    power_of,
    reverberate,
)
from maya.errors import MayaError
from maya.ranges import Ascending, BelowOne, Finite, PosFloat, PosInt, Range, Seed, Share

_GOLDEN = (math.sqrt(5) - 1) / 2
_ROOMS_KEPT = 512  # decoded impulse responses; of one second, 32 MB
_LONGEST_ROOM = 4.0  # seconds of an impulse response; what follows cannot be heard
_WARPS = 3  # factors of a warp: one for each of maya.features.warp.KNOTS_HZ


@config
class NoiseConfig:
    """Noise from recordings, which may be of any length and kind.

    folders: with audio at any depth, or tars of it. prob: share of the utterances that are not kept clean.
    snr_db: range of the level of the utterance over the noise, drawn evenly. mixed: range of the number of
    recordings added up to one noise; several voices make babble.
    """

    folders: tuple[str, ...] = ()
    prob: Share = 0.0
    snr_db: Annotated[tuple[Finite, Finite], Ascending()] = (10.0, 25.0)
    mixed: Annotated[tuple[PosInt, PosInt], Ascending()] = (1, 1)


@config
class AugmentConfig:
    """Changes of training audio; by default there are none.

    clean_share: of the utterances, at least so many stay as they are: each of them in that share of the
        epochs, whatever the probabilities say, which are of the others.
    noise, music, babble: one of the three at most is added. For the folders of MUSAN (Snyder et al. 2015)
        Kaldi's recipes take snr_db (0, 15), (5, 15), and (13, 20) with mixed (3, 7).
    rooms: folders or tars of room impulse responses; the level stays, and so does the place of the speech.
    made_room_prob: share in made-up rooms, for those without recordings: noise that decays by 60 dB within
        `reverberation_seconds`, with the direct sound `direct_db` above it; each range is drawn from evenly.
    made_noise_prob: share with made-up noise, whose power falls by 0 to 6 dB an octave; its level is drawn
        from `made_snr_db`.
    equalizer_prob: share whose spectrum is shaped by a random smooth curve, as by another microphone;
        `equalizer_db` is its largest gain or loss at any of six frequencies from 125 to 4000 Hz.
    warp_prob: share of the utterances whose formants are moved, as if by another vocal tract.
    warp: factors of frequency, drawn evenly between their logarithms. warp_spread: each formant is moved by a
        factor of its own besides, up to so much above or below 1. The features must be warpable.
    band_limit_hz: cut-off frequencies in hertz, one of which is drawn; at most half the model's sample rate.
    codecs: one of which is drawn: mulaw, alaw and gsm at 8 kHz as on telephones; mp3, opus and vorbis at
        the model's sample rate, or the next that they have, of any quality.
    volume: factors, drawn evenly between their logarithms.
    """

    clean_share: Share = 0.4
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    music: NoiseConfig = field(default_factory=NoiseConfig)
    babble: NoiseConfig = field(default_factory=lambda: NoiseConfig(snr_db=(13.0, 20.0), mixed=(3, 7)))
    rooms: tuple[str, ...] = ()
    room_prob: Share = 0.0
    made_room_prob: Share = 0.0
    reverberation_seconds: Annotated[tuple[PosFloat, PosFloat], Ascending()] = (0.1, 0.5)
    direct_db: Annotated[tuple[Finite, Finite], Ascending()] = (0.0, 12.0)
    made_noise_prob: Share = 0.0
    made_snr_db: Annotated[tuple[Finite, Finite], Ascending()] = (5.0, 30.0)
    equalizer_prob: Share = 0.0
    equalizer_db: PosFloat = 10.0
    warp_prob: Share = 0.0
    warp: Annotated[tuple[PosFloat, PosFloat], Ascending()] = (0.85, 1.18)
    warp_spread: BelowOne = 0.0
    band_limit_hz: tuple[Annotated[int, Range(min=500)], ...] = (3000, 4000, 6000)
    band_limit_prob: Share = 0.0
    codecs: tuple[str, ...] = tuple(CODECS)
    codec_prob: Share = 0.0
    volume: Annotated[tuple[PosFloat, PosFloat], Ascending()] = (0.7, 1.3)
    volume_prob: Share = 0.0
    seed: Seed = 0

    @property
    def noises(self) -> dict[str, NoiseConfig]:
        return {"noise": self.noise, "music": self.music, "babble": self.babble}

    @property
    def on(self) -> bool:
        """Whether anything is ever changed."""
        chances = [noise.prob for noise in self.noises.values()]
        chances += [self.room_prob, self.made_room_prob, self.made_noise_prob, self.equalizer_prob]
        return max(*chances, self.warp_prob, self.band_limit_prob, self.codec_prob, self.volume_prob) > 0


def few_speakers() -> AugmentConfig:
    """For training on a few speakers: other microphones, noises and rooms, made up. egs/digits/RESULTS.md has
    what was compared."""
    return AugmentConfig(
        clean_share=0.2, equalizer_prob=0.5, equalizer_db=8.0, made_noise_prob=0.3, made_room_prob=0.15,
        band_limit_prob=0.2,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """recordings: which, and from where in each (0 to 1)."""

    kind: str
    recordings: tuple[tuple[int, float], ...]
    snr_db: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Changes of one utterance, in this order; all None for a clean one. warp: done by the features."""

    warp: tuple[float, ...] | None = None
    room: int | None = None
    made_room: MadeRoom | None = None
    noise: Noise | None = None
    made_noise: MadeNoise | None = None
    equalizer_db: tuple[float, ...] | None = None
    band_limit_hz: int | None = None
    codec: tuple[str, float] | None = None  # and its quality, 0 (small) to 1 (good)
    volume: float | None = None

    @property
    def names(self) -> list[str]:
        kinds = {
            "warp": self.warp, "room": self.room, "made_room": self.made_room, "made_noise": self.made_noise,
            "equalizer": self.equalizer_db,
            "band_limit": self.band_limit_hz, "codec": self.codec, "volume": self.volume,
        }  # fmt: skip
        names = [name for name, value in kinds.items() if value is not None]
        return names + ([self.noise.kind] if self.noise is not None else []) or ["clean"]


class Augment:
    """Changes audio at `sample_rate` Hz, the model's, as `cfg` says. Raises MayaError when a folder has no
    audio or a number makes no sense.

    Files of a folder are taken in the order of their names: what is drawn stays the same on another machine.
    """

    def __init__(self, cfg: AugmentConfig, sample_rate: int) -> None:
        _check(cfg)
        _check_band_limits(cfg, sample_rate)
        self.cfg, self.sample_rate = cfg, sample_rate
        used = {name: noise.folders for name, noise in cfg.noises.items() if noise.prob > 0}
        self._noises = {name: recordings_in(folders, f"augment.{name}") for name, folders in used.items()}
        self._rooms = recordings_in(cfg.rooms, "augment.rooms") if cfg.room_prob > 0 else []
        self._room = lru_cache(_ROOMS_KEPT)(partial(_load_room, sample_rate=sample_rate))

    def __call__(self, audio: Tensor, id: str, epoch: int) -> Tensor:
        """(N,) at `sample_rate` to (N,). Raises MayaError for an unreadable noise or impulse response."""
        return self.apply(audio, self.changes(id, epoch))

    def changes(self, id: str, epoch: int) -> Changes:
        """The changes of an utterance in an epoch."""
        cfg = self.cfg
        if _clean_place(cfg.seed, id, epoch) < cfg.clean_share:
            return Changes()
        rng = draws_of(f"{cfg.seed}/{epoch}/{id}")
        # Always the same number of draws for the decisions: options do not shift each other's.
        does, which = rng.random(5), rng.random(7)
        return Changes(
            room=int(which[0] * len(self._rooms)) if does[0] < cfg.room_prob else None,
            noise=self._noise(does[1], which[1], which[2], rng),
            **self._made_up(id, epoch),
            band_limit_hz=_pick(cfg.band_limit_hz, which[3]) if does[2] < cfg.band_limit_prob else None,
            codec=(_pick(cfg.codecs, which[4]), float(which[5])) if does[3] < cfg.codec_prob else None,
            volume=_between_logs(cfg.volume, which[6]) if does[4] < cfg.volume_prob else None,
        )

    def warps(self, ids: Sequence[str], epoch: int) -> Tensor | None:
        """(B, 3) float32: the formant warps of utterances in an epoch, 1 for those without; None where the
        options have none."""
        if self.cfg.warp_prob == 0:
            return None
        return torch.tensor([self.changes(id, epoch).warp or (1.0,) * _WARPS for id in ids])

    def _made_up(self, id: str, epoch: int) -> dict[str, Any]:
        """The changes that need no recordings, by draws of their own."""
        cfg, rng = self.cfg, draws_of(f"{self.cfg.seed}/{epoch}/{id}/made")
        does, room, noise = rng.random(4), rng.random(2), rng.random(2)
        seeds, gains, warp = rng.integers(2**32, size=2), rng.uniform(-1, 1, len(EQUALIZER_HZ)), rng.random()
        spread = 1 + cfg.warp_spread * rng.uniform(-1, 1, _WARPS)
        changes: dict[str, Any] = {}
        if does[0] < cfg.warp_prob:
            changes["warp"] = tuple((_between_logs(cfg.warp, warp) * spread).tolist())
        if does[1] < cfg.made_room_prob:
            seconds, direct = _between(cfg.reverberation_seconds, room[0]), _between(cfg.direct_db, room[1])
            changes["made_room"] = MadeRoom(seconds=seconds, direct_db=direct, seed=int(seeds[0]))
        if does[2] < cfg.made_noise_prob:
            snr_db, slope_db = _between(cfg.made_snr_db, noise[0]), _between((-6.0, 0.0), noise[1])
            changes["made_noise"] = MadeNoise(snr_db=snr_db, slope_db=slope_db, seed=int(seeds[1]))
        if does[3] < cfg.equalizer_prob:
            changes["equalizer_db"] = tuple((cfg.equalizer_db * gains).tolist())
        return changes

    def apply(self, audio: Tensor, changes: Changes) -> Tensor:
        """(N,) with these changes made, except the warp; an utterance of silence stays as it is."""
        if changes == Changes() or len(audio) == 0 or power_of(audio) < SILENT:
            return audio
        if changes.room is not None:
            audio = reverberate(audio, self._room(self._rooms[changes.room]))
        if changes.made_room is not None:
            audio = reverberate(audio, made_room(changes.made_room, self.sample_rate))
        if changes.noise is not None:
            audio = add_noise(audio, self.load_noise(changes.noise, len(audio)), changes.noise.snr_db)
        if changes.equalizer_db is not None:
            audio = equalize(audio, changes.equalizer_db, self.sample_rate)
        if changes.made_noise is not None:
            noise = made_noise(changes.made_noise, len(audio), self.sample_rate)
            audio = add_noise(audio, noise, changes.made_noise.snr_db)
        if changes.band_limit_hz is not None:
            audio = band_limit(audio, changes.band_limit_hz, self.sample_rate)
        if changes.codec is not None:
            audio = through_codec(audio, *changes.codec, sample_rate=self.sample_rate)
        if changes.volume is not None:
            audio = audio * changes.volume
        return audio

    def shares(self, ids: Iterable[str], epoch: int) -> dict[str, float]:
        """Share of these utterances in an epoch with each change, and of clean ones; no audio is read."""
        counts: dict[str, int] = {"clean": 0}
        total = 0
        for total, id in enumerate(ids, start=1):  # noqa: B007 (the last is the number)
            for name in self.changes(id, epoch).names:
                counts[name] = counts.get(name, 0) + 1
        return {name: count / max(total, 1) for name, count in counts.items()}

    def _noise(self, draw: float, how_many: float, level: float, rng: np.random.Generator) -> Noise | None:
        begin = 0.0
        for kind, cfg in self.cfg.noises.items():
            if begin <= draw < begin + cfg.prob:
                low, high = cfg.mixed
                count = low + int(how_many * (high - low + 1))
                chosen = rng.integers(len(self._noises[kind]), size=count).tolist()
                places = rng.random(count).tolist()
                snr_db = cfg.snr_db[0] + level * (cfg.snr_db[1] - cfg.snr_db[0])
                return Noise(kind=kind, recordings=tuple(zip(chosen, places, strict=True)), snr_db=snr_db)
            begin += cfg.prob
        return None

    def load_noise(self, noise: Noise, samples: int) -> Tensor:
        """(samples,): the recordings, each brought to the same power, added up."""
        total = torch.zeros(samples)
        for index, place in noise.recordings:
            segment = load_segment(self._noises[noise.kind][index], samples, place, self.sample_rate)
            power = power_of(segment)
            total += segment / math.sqrt(power) if power > SILENT else 0.0
        return total


def _clean_place(seed: int, id: str, epoch: int) -> float:
    """Evenly over 0 to 1 for the utterances of an epoch, and for the epochs of an utterance: steps of the
    golden ratio fill the circle without gaps, so each is clean as often as its share says, or nearly."""
    key = hashlib.blake2b(f"{seed}/{id}".encode(), digest_size=8).digest()
    return (int.from_bytes(key, "little") / 2**64 + epoch * _GOLDEN) % 1.0


def draws_of(key: str) -> np.random.Generator:
    """Random numbers that are a function of `key`."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _pick(options: Sequence, draw: float):  # type: ignore[no-untyped-def]
    return options[int(draw * len(options))]


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + float(draw) * (limits[1] - limits[0])


def _between_logs(limits: tuple[float, float], draw: float) -> float:
    low, high = map(math.log, limits)
    return math.exp(low + draw * (high - low))


def recordings_in(folders: Sequence[str], option: str) -> list[ByteRange]:
    """All audio in these folders and tars, in the order of names."""
    recordings: list[ByteRange] = []
    for folder in map(Path, folders):
        if folder.is_file() or str(folder).startswith("s3:"):
            stamp = file_stamp(folder)
            members = [m for m in index_tar(folder) if m.name.lower().endswith(AUDIO_SUFFIXES)]
            some = [ByteRange(str(folder), m.offset, m.size, stamp) for m in members]
        else:
            paths = [p for p in walk(folder).files if p.suffix.lower() in AUDIO_SUFFIXES]
            some = [ByteRange(str(path), 0, file_stamp(path).size) for path in paths]
        if not some:
            raise MayaError(f"{option}: {folder} is not a folder or tar file that contains audio")
        recordings += some
    if not recordings:
        raise MayaError(f"{option} has a probability and no folder: name one with recordings")
    return recordings


def load_segment(where: ByteRange, samples: int, place: float, sample_rate: int) -> Tensor:
    """(samples,) at `sample_rate` Hz from `place` (0 to 1) of what the recording leaves room for; repeated if
    short."""
    segment, rate = read_segment(where, samples / sample_rate, place)
    if segment.shape[1] == 0:
        raise MayaError(f"the noise {where.path} holds no audio samples")
    audio = resample(torch.from_numpy(segment).mean(dim=0), rate, sample_rate)
    if len(audio) < samples:
        audio = audio.roll(int(place * len(audio))).repeat(math.ceil(samples / len(audio)))
    return audio[:samples]


def _load_room(where: ByteRange, sample_rate: int) -> Tensor:
    """(K,) first channel of an impulse response at `sample_rate` Hz."""
    response, rate = decode(where, 0.0, _LONGEST_ROOM)
    room = resample(torch.from_numpy(response[0].copy()), rate, sample_rate)
    if len(room) == 0 or float(room.abs().max()) == 0:
        raise MayaError(f"the impulse response {where.path} is silent")
    return room


def _check(cfg: AugmentConfig) -> None:
    if (total := sum(noise.prob for noise in cfg.noises.values())) > 1:
        raise MayaError(f"augment.noise.prob + music.prob + babble.prob must be 1 or less, not {total:g}")
    if unknown := [name for name in cfg.codecs if name not in CODECS]:
        raise MayaError(f"augment.codecs: {unknown[0]!r} is none of {', '.join(CODECS)}")
    if (cfg.codec_prob > 0 and not cfg.codecs) or (cfg.band_limit_prob > 0 and not cfg.band_limit_hz):
        raise MayaError("augment.codecs and augment.band_limit_hz must not be empty where they are used")


def _check_band_limits(cfg: AugmentConfig, sample_rate: int) -> None:
    """MayaError where a cut-off that may be drawn is not one for audio at this rate."""
    highest = sample_rate // 2
    for hertz in cfg.band_limit_hz:
        # The default has cut-offs that a narrow-band model cannot use: they matter where they may be drawn.
        if hertz < 500 or (hertz > highest and cfg.band_limit_prob > 0):
            raise MayaError(
                f"augment.band_limit_hz: {hertz} is no cut-off for audio at {sample_rate} Hz, the model's "
                f"rate; take numbers from 500 to {highest}"
            )
