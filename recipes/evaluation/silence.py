"""The silence test of `maya evaluate`: words that a model writes where nobody speaks; none is right."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from maya.audio.load import load_audio
from maya.audio.noises import hum, pink_noise, telephone_tones, white_noise
from maya.data.corpus.common import AUDIO_SUFFIXES
from maya.data.corpus.walk import walk
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.pages import columns
from maya.score.wer import words_of

PIECE = 20.0  # seconds
MINUTES = 1.0
_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SilenceScore:
    """What was written for one kind of sound without speech. words: where all of it is decoded; with_vad:
    where voice activity detection chooses what is decoded, as in `maya transcribe`. texts: how often each was
    written without it, "" too."""

    name: str
    minutes: float
    words: int
    with_vad: int
    texts: Counter[str]

    @property
    def words_per_minute(self) -> float:
        """0 is right."""
        return self.words / self.minutes if self.minutes else 0.0


def silence_test(
    recognizer: Recognizer, folders: Sequence[Path] = (), *, method: str, language: str | None = None,
    minutes: float = MINUTES,
) -> list[SilenceScore]:  # fmt: skip
    """The words written for made-up sounds, `minutes` of each, and for all recordings of `folders`.

    Audio is cut into pieces of 20 s. Raises MayaError for a folder without audio.
    """
    rate, decoder = recognizer.sample_rate, recognizer.make_method(recognizer.choose_method(method))
    sounds: dict[str, Iterator[Tensor]] = dict(_made(rate, max(1, round(minutes * _MINUTE / PIECE))))
    for folder in folders:
        sounds[folder.name or str(folder)] = _recorded(folder, rate)
    scores = []
    for name, pieces in sounds.items():
        texts: Counter[str] = Counter()
        seconds, with_vad = 0.0, 0
        for piece in pieces:
            (hyp,) = recognizer.transcribe([piece], language, method=method)
            (speech,) = recognizer.transcribe_each([piece], language, decoder=decoder, predictions=False)
            assert speech.hypothesis is not None, speech.error
            texts[hyp.text.strip()] += 1
            with_vad += len(words_of(speech.hypothesis.text))
            seconds += len(piece) / rate
        words = sum(len(words_of(text)) * times for text, times in texts.items())
        length = seconds / _MINUTE
        scores.append(SilenceScore(name=name, minutes=length, words=words, with_vad=with_vad, texts=texts))
    return scores


def silence_table(scores: Sequence[SilenceScore]) -> str:
    """The scores as text for a terminal, with the most frequent text of each kind."""
    rows = [["sound", "minutes", "words", "words/min", "words with VAD", "most frequent text", ""]]
    for s in scores:
        text = next((f"{shorten(text, 40)!r} ({n})" for text, n in s.texts.most_common() if text), "-")
        counts = [str(s.words), f"{s.words_per_minute:.2f}", str(s.with_vad)]
        rows.append([s.name, f"{s.minutes:.1f}", *counts, text, ""])
    return "\n".join(columns(rows))


def silence_result(scores: Sequence[SilenceScore]) -> list[dict[str, Any]]:
    """The scores as JSON values."""
    return [
        {"sound": s.name, "minutes": s.minutes, "words": s.words, "words_per_minute": s.words_per_minute,
         "words_with_vad": s.with_vad, "texts": dict(s.texts)}
        for s in scores
    ]  # fmt: skip


def _made(rate: int, pieces: int) -> list[tuple[str, Iterator[Tensor]]]:
    n = int(PIECE * rate)

    def at(decibels: float, piece: Tensor) -> Tensor:
        return (piece * 10 ** (decibels / 20)).clamp(-1, 1)

    return [
        ("digital silence", (torch.zeros(n) for _ in range(pieces))),
        ("white noise, -60 dBFS", (at(-60, white_noise(n, i)) for i in range(pieces))),
        ("white noise, -30 dBFS", (at(-30, white_noise(n, i)) for i in range(pieces))),
        ("pink noise, -30 dBFS", (at(-30, pink_noise(n, i, rate)) for i in range(pieces))),
        ("hum of 50 Hz, -40 dBFS", (at(-40, hum(n, rate)) for i in range(pieces))),
        ("telephone tones, -20 dBFS", (at(-20, telephone_tones(n, i, rate)) for i in range(pieces))),
    ]


def _recorded(folder: Path, rate: int) -> Iterator[Tensor]:
    paths = [folder] if folder.is_file() else []
    if folder.is_dir():
        paths = [p for p in walk(folder).files if p.suffix.lower() in AUDIO_SUFFIXES]
    if not paths:
        raise MayaError(f"{folder} is not a file or folder with audio")
    step = int(PIECE * rate)
    for path in paths:
        audio = load_audio(path, rate)
        for start in range(0, len(audio), step):
            yield audio[start : start + step]
