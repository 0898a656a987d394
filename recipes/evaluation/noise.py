"""The noise ladder of `maya evaluate`: error rates as noise grows from one step to the next."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.audio.noises import pink_noise, white_noise
from maya.data.loading.acoustics import add_noise
from maya.data.loading.augment import Augment, AugmentConfig, NoiseConfig
from maya.data.measure.entry import Entry
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.pages import columns
from maya.recipes.evaluation.decoding import AT_ONCE, decode_audio, scored
from maya.score.measures.loops import loop_signs
from maya.score.measures.normalizers import DEFAULT
from maya.score.report import Report, Utterance, make_report, percent, result, span

MADE = ("white", "pink", "babble")
SNRS = (20.0, 15.0, 10.0, 5.0, 0.0)
_VOICES = 6  # other utterances that make babble
_KEPT = 256  # utterances kept in memory for babble


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One step. snr_db: of the added noise, None without noise. loops: hypotheses with signs of a loop."""

    snr_db: float | None
    report: Report
    loops: int


class NoiseMaker:
    """Adds noise of one kind to utterances. kind: one of MADE, or a folder or tar of recordings.

    The same utterance has the same noise at every level and in every run. The level is that of the whole
    utterance over the whole noise, pauses included, as in Kaldi's recipes (`maya.data.loading.augment`).
    Raises MayaError for babble of fewer than two utterances and for a folder without audio.
    """

    def __init__(self, kind: str, entries: Sequence[Entry], sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._entries = list(entries)
        self._load = lru_cache(_KEPT)(lambda i: self._entries[i].load_audio(sample_rate))
        makers: dict[str, Callable[[str, int], Tensor]] = {
            "white": lambda id, n: white_noise(n, _seed(id)),
            "pink": lambda id, n: pink_noise(n, _seed(id), sample_rate),
            "babble": self._babble,
        }
        if kind == "babble" and len({entry.id for entry in entries}) < 2:
            raise MayaError("babble is made of other utterances of the manifest, which has only one")
        self._recordings = None
        if kind not in MADE:
            if not Path(kind).exists() and not kind.startswith("s3:"):
                raise MayaError(
                    f"--noise is {', '.join(MADE)}, or a folder of recordings; there is no {kind}"
                )
            noise = NoiseConfig(folders=(kind,), prob=1.0, snr_db=(0.0, 0.0))
            self._recordings = Augment(AugmentConfig(noise=noise, clean_share=0.0), sample_rate)
            makers[kind] = self._recorded
        self._make = makers[kind]

    def noise(self, id: str, samples: int) -> Tensor:
        """(samples,) float32 for the utterance of this id."""
        return self._make(id, samples)

    def _recorded(self, id: str, samples: int) -> Tensor:
        assert self._recordings is not None
        changes = self._recordings.changes(id, 0)
        assert changes.noise is not None
        return self._recordings.load_noise(changes.noise, samples)

    def _babble(self, id: str, samples: int) -> Tensor:
        draw = torch.Generator().manual_seed(_seed(id))
        others = [i for i, entry in enumerate(self._entries) if entry.id != id]
        total = torch.zeros(samples)
        for place in torch.randint(len(others), (_VOICES,), generator=draw).tolist():
            voice = self._load(others[place])
            if len(voice) == 0:
                continue
            shift = int(torch.randint(len(voice), (1,), generator=draw))
            long = voice.roll(shift).repeat(-(-samples // len(voice)))[:samples]
            total += long / long.square().mean().sqrt().clamp(min=1e-6)
        return total


def noise_ladder(
    recognizer: Recognizer, entries: Sequence[Entry], kind: str, snrs: Sequence[float] = SNRS, *,
    method: str, language: str | None = None, normalizer: str = DEFAULT,
) -> list[Rung]:  # fmt: skip
    """The scores without noise, then at each level of `snrs` in dB. kind: see `NoiseMaker`."""
    levels: list[float | None] = [None, *snrs]
    maker = NoiseMaker(kind, entries, recognizer.sample_rate)
    rows: dict[float | None, list[Utterance]] = {level: [] for level in levels}
    for some in _parts(entries):
        clean = [entry.load_audio(recognizer.sample_rate) for entry in some]
        noises = [maker.noise(entry.id, len(audio)) for entry, audio in zip(some, clean, strict=True)]
        for level in levels:
            audio = clean
            if level is not None:
                audio = [add_noise(a, n, level) for a, n in zip(clean, noises, strict=True)]
            hyps = decode_audio(recognizer, some, audio, method, language)
            rows[level] += scored(some, [hyp.text for hyp in hyps], normalizer, level)
    return [
        Rung(
            snr_db=level, report=make_report(rows[level]),
            loops=sum(bool(loop_signs(u.hyp, u.seconds).reasons) for u in rows[level]),
        )
        for level in levels
    ]  # fmt: skip


def ladder_table(rungs: Sequence[Rung]) -> str:
    """The ladder as text for a terminal."""
    rows = [["SNR dB", "WER %", "95 % interval", "CER %", "sub", "del", "ins", "loops"]]
    for rung in rungs:
        score = rung.report.pooled
        w = score.words
        counts = [str(n) for n in (w.substitutions, w.deletions, w.insertions, rung.loops)]
        level = "clean" if rung.snr_db is None else f"{rung.snr_db:g}"
        rows.append(
            [level, percent(w.rate), span(score.wer_interval), percent(score.characters.rate), *counts]
        )
    return "\n".join(columns(rows, aligned_left={0, 2}))


def ladder_result(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """The ladder as JSON values."""
    return [{"snr_db": rung.snr_db, "loops": rung.loops, **result(rung.report)} for rung in rungs]


def _parts(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for i in range(0, len(entries), AT_ONCE):
        yield entries[i : i + AT_ONCE]


def _seed(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=4).digest(), "little")
