"""Reading audio: any format libsndfile decodes (wav, flac, ogg vorbis, ogg opus, mp3, ...), any rate, any
number of channels, to mono float32 at the rate that is asked for."""

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from lhotse.cut import Cut

from maya.data.tar_audio import read_samples, use_byte_ranges
from maya.errors import MayaError

_RATES = (1000, 768_000)  # Hz; outside of these a header is damaged

use_byte_ranges()  # so that cuts whose recordings lie inside tar files can be read


def load_audio(source: Path | str | bytes, sample_rate: int = 16000) -> torch.Tensor:
    """Decode a file, or the bytes of one, to (N,) float32 in [-1, 1], channels averaged.

    sample_rate: in Hz; for a model its `cfg.features.sample_rate`. Audio of any other rate is resampled.

    Raises MayaError, naming the file, when it is missing, cannot be decoded or holds no samples.
    """
    name = "these bytes" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise MayaError(f"there is no audio file {source}")
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with soundfile.SoundFile(opened) as file:
            samples, rate = read_samples(file, file.frames), file.samplerate
        check_rate(rate, sample_rate)
    except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError, MemoryError) as error:
        raise MayaError(f"cannot decode {name} as audio: {_reason(error)}") from None
    if len(samples) == 0:
        raise MayaError(f"{name} holds no audio samples")
    audio = _average(torch.from_numpy(samples.T))
    return resample(audio, rate, sample_rate)


def load_cut_audio(cut: Cut, sample_rate: int | None = None) -> torch.Tensor:
    """The audio of a lhotse cut: (N,) float32 at `sample_rate` Hz, channels averaged.

    None keeps the cut's own rate. The cut's own lazy transforms (resampling, speed) are applied first; the
    rest is resampled as `load_audio` does it. Raises MayaError naming the utterance.
    """
    try:
        samples = cut.load_audio()  # (C, N), or (N,) for a multi-channel cut mixed down by lhotse
    except Exception as error:  # lhotse lets many kinds through: its own, soundfile's, OSError, assertions
        raise MayaError(f"utterance {cut.id!r}: cannot read {_where(cut)}: {_reason(error)}") from None
    audio = _average(torch.from_numpy(np.ascontiguousarray(np.atleast_2d(samples))))
    return resample(audio, cut.sampling_rate, sample_rate or cut.sampling_rate)


def _average(channels: torch.Tensor) -> torch.Tensor:
    """(C, N) -> (N,). One channel is its own average: to compute it takes 70 µs for 8 s of audio."""
    return channels[0] if len(channels) == 1 else channels.mean(dim=0)


def resample(audio: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """(N,) at `rate` Hz to (ceil(N * new_rate / rate),) at `new_rate` Hz, by soxr at its high quality."""
    if rate == new_rate:
        return audio
    check_rate(rate, new_rate)
    wanted = -(-len(audio) * new_rate // rate)
    resampled = torch.from_numpy(soxr.resample(audio.numpy(), rate, new_rate, quality="HQ"))[:wanted]
    return torch.nn.functional.pad(resampled, (0, wanted - len(resampled)))


def check_rate(rate: int, new_rate: int | None = None) -> None:
    """ValueError for a sampling rate that no recorder uses: such a header is damaged."""
    if not _RATES[0] <= rate <= _RATES[1]:
        to = f" to {new_rate} Hz" if new_rate else ""
        raise ValueError(f"its sampling rate is {rate} Hz; it cannot be resampled{to}")


def change_speed(audio: torch.Tensor, factor: float, sample_rate: int) -> torch.Tensor:
    """Play (N,) `factor` times faster, pitch included, as Kaldi's and lhotse's speed perturbation do."""
    return resample(audio, round(sample_rate * factor), sample_rate)


def _where(cut: Cut) -> str:
    recording = getattr(cut, "recording", None)
    return str(recording.sources[0].source) if recording is not None and recording.sources else "(no source)"


def _reason(error: BaseException) -> str:
    """The first line of an error, without lhotse's dump of the manifest."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
