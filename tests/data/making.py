"""Small corpora of tones, for the tests of maya.data."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import MonoCut

from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import Row
from maya.data.measure.entry import Entry
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

WORDS = {"en": ["one", "two", "three", "four", "five", "six"], "hi": ["एक", "दो", "तीन", "चार", "पाँच", "छह"]}


def tone(seconds: float, rate: int = 16000, channels: int = 1, pitch: float = 220.0) -> np.ndarray:
    """(N,) or (N, C) of a sine, softer in each further channel."""
    samples = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    return samples if channels == 1 else np.stack([samples / (c + 1) for c in range(channels)], axis=1)


def write_tone(
    path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, channels, options.pop("pitch", 220.0)), rate, **options)
    return path


def write_noise(path: Path, seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray[Any, Any]:
    """Write noise in which no two parts are alike. Returns the samples as they are read back, (N, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels))
    soundfile.write(path, samples.astype(np.float32), rate)
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def encoded(samples: np.ndarray, rate: int, format: str, subtype: str | None = None, **options: Any) -> bytes:
    """The bytes of an audio file of (N,) or (N, C) samples, written by libsndfile."""
    buffer = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(buffer, "w", rate, channels, subtype, format=format, **options) as file:
        for begin in range(0, len(samples), 1 << 14):  # many samples overflow the stack of its Vorbis encoder
            file.write(samples[begin : begin + (1 << 14)])
    return buffer.getvalue()


def media(samples: np.ndarray, format: str, codec: str, rate: int = 16000) -> bytes:
    """The bytes of an audio file of (N,) samples, written by PyAV, which must be installed."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for begin in range(0, len(samples), 1024):
            part = np.ascontiguousarray(samples[None, begin : begin + 1024], np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, begin
            container.mux([packet for made in resampler.resample(frame) for packet in stream.encode(made)])
        container.mux([packet for made in resampler.resample(None) for packet in stream.encode(made)])
        container.mux(stream.encode(None))
    return buffer.getvalue()


def make_entry(id: str, text: str = "x", seconds: float = 1.0, **facts: Any) -> Entry:
    """A measured utterance: a whole file of `seconds` at 16 kHz, unless `facts` give other fields."""
    fields: dict[str, Any] = {
        "id": id, "path": "a.wav", "offset": None, "size": None, "member": None, "file_size": 1000,
        "file_mtime": 1, "sample_rate": 16000, "channels": 1, "num_samples": round(seconds * 16000),
        "start": None, "duration": seconds, "text": text, "raw_text": text, "language": "en", "speaker": "s",
        "kind": None, "source": None, "licence": None, "where": "m:1",
    } | facts  # fmt: skip
    return Entry(**fields)


def write_lines(path: Path, *rows: dict[str, Any] | str) -> Path:
    """Write JSON lines; a string is written as it is. The file is compressed if its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_manifest(folder: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    return write_lines(folder / "manifest.jsonl", *rows)


def write_kaldi(folder: Path, **files: str) -> None:
    """Write the files of a Kaldi folder; `wav_scp` stands for wav.scp."""
    for name, text in files.items():
        (folder / name.replace("_scp", ".scp")).write_text(text, encoding="utf-8")


def rows_of(corpus: Path, language: str | None = None, made: Path | None = None) -> list[Row]:
    """The rows of a corpus that has no unusable rows."""
    rows, dropped = read_corpus(corpus, language, made)
    assert not dropped
    return rows


def write_corpus(folder: Path, per_speaker: int = 4, speakers: int = 5) -> list[dict[str, Any]]:
    """Write wav files in two languages with a manifest. Returns the rows of the manifest."""
    rows = []
    for language, words in WORDS.items():
        for i in range(per_speaker * speakers):
            name = f"{language}-{i:03d}"
            seconds = 0.4 + 0.05 * (i % 7)
            write_tone(folder / f"{name}.wav", seconds, pitch=200 + 10 * i)
            row = {
                "id": name,
                "language": language,
                "text": f"{words[i % 6]} {words[i // 6 % 6]}",
                "audio": f"{name}.wav",
                "speaker": f"{language}-s{i % speakers}",
            }
            rows.append(row)
    write_manifest(folder, rows)
    return rows


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write an uncompressed tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_cuts(folder: Path, seconds: Sequence[float], language: str = "en") -> CutSet:
    """Write a recording of each duration. Returns their cuts, with texts of one word per 0.3 s."""
    cuts = []
    for i, duration in enumerate(seconds):
        name = f"{language}-{i:04d}"
        recording = Recording.from_file(write_tone(folder / f"{name}.wav", duration, pitch=150 + i), name)
        words = WORDS[language]
        text = " ".join(words[(i + k) % 6] for k in range(1 + int(duration / 0.3)))
        supervision = SupervisionSegment(
            id=name, recording_id=name, start=0.0, duration=recording.duration, text=text,
            language=language, speaker=f"s{i % 3}",
        )  # fmt: skip
        cuts.append(
            MonoCut(
                id=name, start=0.0, duration=recording.duration, channel=0, recording=recording,
                supervisions=[supervision],
            )
        )  # fmt: skip
    return CutSet.from_cuts(cuts)


def make_tokenizer() -> Tokenizer:
    return train_tokenizer({code: words * 3 for code, words in WORDS.items()}, TokenizerConfig(vocab_size=36))
