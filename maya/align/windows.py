"""The frames of a recording of any length: audio is encoded window by window, and what the search reads lies
in a temporary file."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.audio.decoding import open_audio
from maya.audio.load import load_audio
from maya.decode.recognizer import Recognizer
from maya.decode.word_edges import Levels, sound_levels
from maya.errors import MayaError

_IN_MEMORY = 1 << 28  # bytes of rows; more go to a file


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """How a long recording is encoded: windows of `seconds`, with `context` seconds on both sides whose
    frames are dropped, `rows` at a time. A recording of at most seconds + 2 * context is one window."""

    seconds: float = 40.0
    context: float = 4.0
    rows: int = 2


class FrameRows:
    """(S, D) numbers that are written once in order and read in slices. Large ones lie in a temporary file as
    fp16, smaller ones in memory as fp32."""

    def __init__(self, frames: int, dim: int) -> None:
        self.frames, self.dim, self._written = frames, dim, 0
        self._file: IO[bytes] | None = None
        self._array = np.zeros((0, dim), np.float32)
        if 4 * frames * dim > _IN_MEMORY:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this object
        else:
            self._array = np.zeros((frames, dim), np.float32)

    def append(self, rows: Tensor) -> None:
        """rows (n, D): the next ones; those beyond S are dropped."""
        values = rows[: self.frames - self._written].float().cpu().numpy()
        if self._file is None:
            self._array[self._written : self._written + len(values)] = values
        else:
            self._file.write(values.astype(np.float16).tobytes())
        self._written += len(values)

    def __call__(self, begin: int, end: int) -> NDArray[np.float32]:
        """FrameRows from `begin` to `end`, (end - begin, D)."""
        if self._file is None:
            return self._array[begin:end]
        self._file.seek(2 * begin * self.dim)
        data = self._file.read(2 * (end - begin) * self.dim)
        return np.frombuffer(data, np.float16).reshape(-1, self.dim).astype(np.float32)


@dataclass(frozen=True, slots=True)
class LongRecording:
    """A recording of `samples` samples at the model's rate, of which any part can be read."""

    name: str
    samples: int
    read: Callable[[int, int], Tensor]


def open_recording(source: str | Path | Tensor, rate: int) -> LongRecording:
    """A file, or samples (N,). Of a file only the parts that are asked for are decoded, if it is long. Raises
    MayaError for a file that cannot be read or holds no samples."""
    if isinstance(source, Tensor):
        return LongRecording("audio", len(source), lambda begin, end: source[begin:end])
    with open_audio(source, whole=False) as audio:
        seconds = audio.num_samples / audio.sample_rate
    if seconds < 600:
        whole = load_audio(source, sample_rate=rate)
        return LongRecording(str(source), len(whole), lambda begin, end: whole[begin:end])
    total = int(seconds * rate)

    def read(begin: int, end: int) -> Tensor:
        """A part, with silence where resampling rounds off a sample."""
        part = load_audio(source, sample_rate=rate, start=begin / rate, duration=(end - begin) / rate)
        return torch.nn.functional.pad(part, (0, max(0, end - begin - len(part))))[: end - begin]

    return LongRecording(str(source), total, read)


def recording_levels(recording: LongRecording, rate: int) -> Levels:
    """The levels of its sound, read a minute at a time."""
    step = 60 * rate
    parts = [
        recording.read(at, min(at + step, recording.samples)) for at in range(0, recording.samples, step)
    ]
    return np.concatenate([sound_levels(part, rate) for part in parts])


def encode_windows(
    recognizer: Recognizer, recording: LongRecording, language: str | None, *, conditioned: bool,
    windows: Windows | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """The encoder frames (n, D) of a recording, one part after another. conditioned: with the language added.
    Raises MayaError for audio without a frame."""
    windows, model = windows or Windows(), recognizer.model
    clock, rate = model.cfg.clock, recognizer.sample_rate
    step = round(clock.seconds * rate)  # samples a frame
    total = int(clock.frames(recording.samples))
    if total < 1:
        raise MayaError(f"{recording.name} is too short to align: it has no frame")
    core, context = (max(1, round(s / clock.seconds)) for s in (windows.seconds, windows.context))
    if total <= core + 2 * context:
        core, context = total, 0
    begins = list(range(0, total, core))
    index = -1 if language is None else model.cfg.languages.index(language)
    for group in (begins[i : i + windows.rows] for i in range(0, len(begins), windows.rows)):
        edges = [(max(0, begin - context), begin, min(total, begin + core)) for begin in group]
        parts = [
            recording.read(
                first * step,
                min((end + context) * step, recording.samples) if end < total else recording.samples,
            )
            for first, _, end in edges
        ]
        frames = _encode(recognizer, parts, index, conditioned)
        for row, (first, begin, end) in zip(frames, edges, strict=True):
            yield row[begin - first : end - first]


def _encode(recognizer: Recognizer, parts: Sequence[Tensor], index: int, conditioned: bool) -> Tensor:
    """(B, S, D)"""
    model, device = recognizer.model, recognizer.device
    lens = torch.tensor([len(part) for part in parts], device=device)
    langs = torch.full((len(parts),), index, device=device)
    with torch.inference_mode():
        encoded = model.encode_audio(pad_sequence(list(parts), batch_first=True).to(device), lens)
        return (model.with_language(encoded, langs) if conditioned else encoded).frames
