"""Loading of audio as mono float32 at one rate, from files, bytes, lhotse cuts and arrays."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maya.audio.decoding import AudioFile, Source, check_rate, first_line, open_audio, samples_in
from maya.audio.resampling import resample_channels
from maya.audio.sound import cancelled_share, channel_average
from maya.errors import MayaError

if TYPE_CHECKING:  # lhotse takes half a second to import, and a file needs none of it
    from lhotse.cut import Cut

__all__ = [
    "as_audio", "change_speed", "check_channel", "check_rate", "load_audio", "load_channels",
    "load_cut_audio", "resample", "select_channel",
]  # fmt: skip

_MISMATCH_SECONDS = 0.1  # a recording may differ so much from what was measured: MP3 decoders differ
# Full scale of integer samples, and what silence is in them. Others have no usual full scale.
_INTEGERS = {
    np.dtype(np.int8): (1 << 7, 0), np.dtype(np.uint8): (1 << 7, 1 << 7), np.dtype(np.int16): (1 << 15, 0),
    np.dtype(np.int32): (1 << 31, 0),
}  # fmt: skip


def load_audio(
    source: Source,
    sample_rate: int = 16000,
    channel: int | None = None,
    *,
    start: float | None = None,
    duration: float | None = None,
    stored_rate: int | None = None,
) -> torch.Tensor:
    """Decode a file, a byte range of one, or the bytes of one, to (N,) float32 in [-1, 1].

    sample_rate: in Hz; for a model its `cfg.features.sample_rate`. Audio of any other rate is resampled.
    channel: the channel to read, from 0; None averages all. start, duration: seconds of a part of the
    recording; without a start it is read to its end. stored_rate: Hz that the recording must have.
    Raises MayaError, naming the source, when it is missing, cut off, cannot be decoded, holds no samples, has
    no such channel, or has channels that cancel each other in the average; and where a `duration` is given
    and the recording has another one.
    """
    with open_audio(source, whole=start is None) as audio:
        begin, expected = _part(audio, start, duration)
        samples = audio.read(begin, None if start is None else expected)
    _check(audio, samples, expected, stored_rate)
    samples = select_channel(samples, channel, audio.name)
    return resample(torch.from_numpy(samples), audio.sample_rate, sample_rate)


def load_channels(
    source: Source,
    sample_rate: int = 16000,
    *,
    start: float | None = None,
    duration: float | None = None,
) -> list[torch.Tensor]:
    """As `load_audio`, but every channel by itself: (N,) float32 of each, in the order of the file."""
    with open_audio(source, whole=start is None) as audio:
        begin, expected = _part(audio, start, duration)
        samples = audio.read(begin, None if start is None else expected)
    _check(audio, samples, expected)
    channels = (np.ascontiguousarray(samples[:, channel]) for channel in range(samples.shape[1]))
    return [resample(torch.from_numpy(channel), audio.sample_rate, sample_rate) for channel in channels]


def _part(audio: AudioFile, start: float | None, duration: float | None) -> tuple[int, int]:
    """The first sample of a part and the number of its samples."""
    begin = samples_in(start, audio.sample_rate) if start else 0
    rest = audio.num_samples - begin
    return begin, rest if duration is None else samples_in(duration, audio.sample_rate)


def _check(audio: AudioFile, samples: np.ndarray, expected: int, stored_rate: int | None = None) -> None:
    """The checks of `load_audio` on samples (N, C) that were read."""
    name, rate = audio.name, audio.sample_rate
    if len(samples) == 0:
        raise MayaError(f"{name} holds no audio samples")
    if stored_rate not in (None, rate):
        raise MayaError(f"{name} has {rate} Hz and had {stored_rate} Hz; prepare the data again")
    if abs(len(samples) - expected) > _MISMATCH_SECONDS * rate:
        raise MayaError(
            f"{name} has {len(samples)} samples where {expected} are expected; prepare the data again"
        )


def load_cut_audio(cut: "Cut", sample_rate: int | None = None) -> torch.Tensor:
    """The audio of a lhotse cut: (N,) float32 at `sample_rate` Hz, channels averaged.

    None keeps the cut's own rate. The cut's own lazy transforms (resampling, speed) are applied first; the
    rest is resampled as `load_audio` does it. Raises MayaError naming the utterance.
    """
    import maya.audio.lhotse_audio  # noqa: F401, PLC0415  it teaches lhotse to read as Maya does

    try:
        samples = cut.load_audio()  # (C, N), or (N,) for a multi-channel cut mixed down by lhotse
    except Exception as error:  # lhotse lets many kinds through: its own, soundfile's, OSError, assertions
        raise MayaError(f"utterance {cut.id!r}: cannot read {_where(cut)}: {first_line(error)}") from None
    channels = np.atleast_2d(samples)
    # One channel is its own average: to compute it takes 70 µs for 8 s of audio.
    if len(channels) == 1:
        audio = torch.from_numpy(np.ascontiguousarray(channels[0]))
    else:
        audio = torch.from_numpy(select_channel(channels.T, None, f"utterance {cut.id!r}"))
    return resample(audio, cut.sampling_rate, sample_rate or cut.sampling_rate)


def as_audio(array: Any, sample_rate: int) -> torch.Tensor:
    """An array or tensor of samples, of one channel, as (N,) float32 in [-1, 1] on the CPU.

    Floats are taken as they are. int16, int32, int8 and uint8 are divided by their full scale. sample_rate:
    Hz, for messages. Raises MayaError for other types and shapes, and for NaN and infinity.
    """
    samples = array.detach().cpu() if isinstance(array, torch.Tensor) else array
    if isinstance(samples, torch.Tensor):
        samples = (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise MayaError(_shape_error(samples.shape, sample_rate))
    if (dtype := samples.dtype.newbyteorder("=")) in _INTEGERS:
        full_scale, zero = _INTEGERS[dtype]
        samples = ((samples.astype(np.float64) - zero) / full_scale).astype(np.float32)
    elif samples.dtype.kind != "f":
        raise MayaError(
            f"samples of type {samples.dtype} have no usual full scale; give float in [-1, 1], int16, int32, "
            "int8 or uint8"
        )
    samples = np.require(samples, np.float32, ["C", "W"])
    if not np.isfinite(samples).all():
        count = len(samples) - int(np.isfinite(samples).sum())
        raise MayaError(f"{count} of {len(samples)} samples are not finite numbers (NaN or infinity)")
    return torch.from_numpy(samples)


def select_channel(samples: np.ndarray, channel: int | None, name: str) -> np.ndarray:
    """(N, C) to (N,): a channel, from 0, or the average of all.

    Raises MayaError where there is no such channel, and where the channels cancel each other in the average.
    """
    check_channel(samples.shape[1], channel, name)
    if channel is not None or samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, channel or 0])
    average = channel_average(samples)
    if (share := cancelled_share(samples, average)) is not None:
        raise MayaError(
            f"the channels of {name} cancel each other: their average, which a model hears, has {share:.1e} "
            "of their power; name one channel to read, or write it to a file"
        )
    return average


def check_channel(channels: int, channel: int | None, name: str) -> None:
    """MayaError where audio of so many channels has no such channel."""
    if channel is not None and not 0 <= channel < channels:
        raise MayaError(f"{name} has {channels} channels, numbered from 0: there is no channel {channel}")


def resample(audio: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """(N,) at `rate` Hz to (ceil(N * new_rate / rate),) at `new_rate` Hz, by soxr's high quality."""
    if rate == new_rate:
        return audio
    check_rate(rate, new_rate)
    return torch.from_numpy(resample_channels(audio.numpy(), rate, new_rate))


def change_speed(audio: torch.Tensor, factor: float, sample_rate: int) -> torch.Tensor:
    """Play (N,) `factor` times faster, pitch included, as Kaldi's and lhotse's speed perturbation do."""
    return resample(audio, round(sample_rate * factor), sample_rate)


def _shape_error(shape: tuple[int, ...], sample_rate: int) -> str:
    sentence = (
        f"an audio array is one-dimensional, (N,) at {sample_rate} Hz; this one has shape {tuple(shape)}"
    )
    if len(shape) == 2 and min(shape) > 0:
        index = "array[:, 0]" if shape[0] > shape[1] else "array[0]"
        average = f"array.mean({int(shape[0] > shape[1])})"
        sentence += f"; give one channel of it, as {index}, or the average, {average}"
    return sentence


def _where(cut: "Cut") -> str:
    recording = getattr(cut, "recording", None)
    return str(recording.sources[0].source) if recording is not None and recording.sources else "(no source)"
