"""Mixtures of speakers, made while training: each utterance with others of the same data.

A mixture is a function of (seed, epoch, id of the first utterance) alone, as in `maya.data.loading.augment`,
so it does not depend on workers, ranks or batches, and a resumed run gets the same ones. An utterance with a
label `mixture` is mixed as that label says, which is how a table of LibriMix becomes audio.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maya.audio.byte_ranges import ByteRange
from maya.audio.load import load_audio
from maya.config import config
from maya.data.loading.acoustics import SILENT, power_of
from maya.data.loading.augment import NoiseConfig, draws_of, load_segment, recordings_in
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.ranges import Ascending, Count, Finite, NonNegFloat, Seed

MIXTURE = "mixture"  # the label of a fixed mixture
PEAK = 0.9  # of a mixture, as in LibriMix; a louder one is made softer with its sources
_TRIES = 200  # draws of another speaker's utterance
_MOST = 5


@config
class MixingConfig:
    """Mixtures for separation; off with `sources=0`.

    sources: speakers in a mixture, the utterance's own first. snr_db: range of the level of the first over
    each other, drawn evenly. noise: of recordings, such as WHAM's, whose level is under that of the speech.
    mode: "min" cuts a mixture to its shortest source, "max" pads the others. seconds: longest part that
    training takes of a mixture, from a random place; 0 takes all. Evaluation takes all of it.
    """

    sources: Count = 0
    snr_db: Annotated[tuple[Finite, Finite], Ascending()] = (-5.0, 5.0)
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(snr_db=(0.0, 15.0)))
    mode: Literal["min", "max"] = "min"
    seconds: NonNegFloat = 0.0
    seed: Seed = 0


class Mixed(NamedTuple):
    """A mixture (N,), its sources (K, N) as they are in it or None, and labels that replace those of the
    utterance."""

    mixture: Tensor
    sources: Tensor | None
    labels: dict[str, str] = {}  # noqa: RUF012  never changed


class Mixer:
    """Mixes the utterances of a table with others of the same table, at `sample_rate` Hz.

    crop: take parts of `cfg.seconds`, for training. Raises MayaError for data of one speaker, for a number of
    sources that cannot be, and for a noise folder without audio.
    """

    def __init__(self, cfg: MixingConfig, utterances: Utterances, sample_rate: int, *, crop: bool) -> None:
        if not 2 <= cfg.sources <= _MOST:
            raise MayaError(f"data.mixing.sources={cfg.sources} is no mixture; use 2 to {_MOST}")
        self.cfg, self.utterances, self.sample_rate, self.crop = cfg, utterances, sample_rate, crop
        self.speakers = utterances.speakers
        self.noises = recordings_in(cfg.noise.folders, "mixing.noise") if cfg.noise.prob > 0 else []
        fixed = all(utterances.labels([0]).get(MIXTURE, [None]))
        if not fixed and len(np.unique(self.speakers)) < cfg.sources and (self.speakers >= 0).all():
            raise MayaError(
                f"mixtures of {cfg.sources} speakers need data of as many; the data name "
                f"{len(np.unique(self.speakers))}: is the column speaker of the manifest filled in?"
            )

    def __call__(self, item: int, audio: Tensor, epoch: int, read: Callable[[int], Tensor]) -> Mixed:
        """The mixture of utterance `item`, whose audio (N,) is given; `read` gives that of any other."""
        rng = draws_of(f"{self.cfg.seed}/{epoch}/{self.utterances.ids[item]}/mixing")
        fixed = self.utterances.labels([item]).get(MIXTURE, [None])[0]
        if fixed is not None:
            sources, noise = self._as_labelled(fixed, audio)
        else:
            others = [read(other) for other in self.partners(item, rng)]
            levels = rng.uniform(*self.cfg.snr_db, size=len(others))
            sources = [audio, *(at_level(x, audio, -float(db)) for x, db in zip(others, levels, strict=True))]
            noise = None
        aligned = self._aligned(sources, rng)
        if noise is None and rng.random() < self.cfg.noise.prob:
            noise = noise_beside(aligned.sum(0), self.cfg.noise, self.noises, self.sample_rate, rng)
        mixture = aligned.sum(0)
        if noise is not None:
            mixture[: len(noise)] += noise[: len(mixture)]
        loudest = float(mixture.abs().max()) if mixture.numel() else 0.0
        scale = min(1.0, PEAK / loudest) if loudest > 0 else 1.0
        return Mixed(mixture * scale, aligned * scale)

    def partners(self, item: int, rng: np.random.Generator) -> list[int]:
        """Utterances of other speakers, each of another one. Utterances without a speaker's name count as
        strangers."""
        chosen = [item]
        for _ in range(_TRIES):
            if len(chosen) == self.cfg.sources:
                break
            other = int(rng.integers(len(self.utterances)))
            named = {int(self.speakers[i]) for i in chosen} - {-1}
            if other not in chosen and int(self.speakers[other]) not in named:
                chosen.append(other)
        else:
            raise MayaError(
                f"no utterance of another speaker came up in {_TRIES} draws for "
                f"{self.utterances.ids[item]!r}: nearly all of the data is of one speaker"
            )
        return chosen[1:]

    def _aligned(self, sources: list[Tensor], rng: np.random.Generator) -> Tensor:
        """(K, N) of the signals: cut to the shortest, each at its own place while training, or padded."""
        lengths = [len(x) for x in sources]
        size = min(lengths) if self.cfg.mode == "min" else max(lengths)
        room = int(self.cfg.seconds * self.sample_rate) if self.crop else 0
        size = min(size, room) if room else size
        rows = torch.zeros(len(sources), size)
        for row, x in zip(rows, sources, strict=True):
            spare = len(x) - size
            begin = int(rng.integers(spare + 1)) if self.crop and spare > 0 else 0
            part = x[begin : begin + size]
            row[: len(part)] = part
        return rows

    def _as_labelled(self, label: str, audio: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The sources and the noise of a fixed mixture."""
        spec = FixedMixture.read(label)
        if 1 + len(spec.others) != self.cfg.sources:
            raise MayaError(
                f"a label {MIXTURE!r} has {1 + len(spec.others)} sources, and data.mixing.sources is "
                f"{self.cfg.sources}; make them equal"
            )
        load = lambda path, gain: load_audio(path, self.sample_rate, channel=0) * gain  # noqa: E731
        noise = None if spec.noise is None else load(*spec.noise)
        return [audio * spec.gain, *(load(path, gain) for path, gain in spec.others)], noise


class FixedMixture(NamedTuple):
    """The label `mixture`: a JSON object of the utterance's gain, and the path and the gain of each other
    source and of the noise. Gains are factors of the samples."""

    gain: float
    others: tuple[tuple[str, float], ...]
    noise: tuple[str, float] | None = None

    @classmethod
    def read(cls, label: str) -> "FixedMixture":
        """Raises MayaError for a label that is none."""
        try:
            values: dict[str, Any] = json.loads(label)
            others = tuple((str(path), float(gain)) for path, gain in values["others"])
            noise = values.get("noise")
            return cls(float(values["gain"]), others, noise and (str(noise[0]), float(noise[1])))
        except (ValueError, KeyError, TypeError, IndexError):
            raise MayaError(
                f"the label {MIXTURE!r} is {label[:80]!r}; expected JSON such as "
                '{"gain": 0.7, "others": [["s2.wav", 1.2]], "noise": ["n.wav", 0.5]}'
            ) from None

    def write(self) -> str:
        """The label's text."""
        return json.dumps({"gain": self.gain, "others": self.others, "noise": self.noise})

    def resolved(self, root: Path) -> "FixedMixture":
        """With paths that are relative taken from `root`."""
        others = tuple((str(root / path), gain) for path, gain in self.others)
        return FixedMixture(self.gain, others, self.noise and (str(root / self.noise[0]), self.noise[1]))


def noise_beside(
    speech: Tensor, cfg: NoiseConfig, noises: Sequence[ByteRange], sample_rate: int, rng: np.random.Generator
) -> Tensor:
    """(N,) of recordings that are drawn, at a level that is drawn under that of speech (N,)."""
    low, high = cfg.mixed
    total = torch.zeros(len(speech))
    for _ in range(int(rng.integers(low, high + 1))):
        where, place = noises[int(rng.integers(len(noises)))], float(rng.random())
        total += load_segment(where, len(total), place, sample_rate)
    return at_level(total, speech, -float(rng.uniform(*cfg.snr_db)))


def at_level(x: Tensor, reference: Tensor, db: float) -> Tensor:
    """x (n,) so that its power is `db` above that of `reference`; a silent signal stays as it is."""
    own, other = power_of(x), power_of(reference)
    return x if own < SILENT or other < SILENT else x * (other / own) ** 0.5 * 10 ** (db / 20)
