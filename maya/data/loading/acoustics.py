"""Acoustics of training audio: noise at a level, rooms, microphones and narrow bands, on the CPU.

Everything is computed by NumPy in one thread, and is the same to the last bit whatever the number of threads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maya.audio.load import resample

SILENT = 1e-10  # mean power, -100 dB
EQUALIZER_HZ = (125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)  # of an equaliser's gains


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeRoom:
    """A made-up room, see `made_room`."""

    seconds: float
    direct_db: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeNoise:
    """Made-up noise, see `made_noise`."""

    snr_db: float
    slope_db: float
    seed: int


def add_noise(audio: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """(N,) + (N,) scaled so that the powers, each over all samples, differ by `snr_db`."""
    power = power_of(noise)
    if power < SILENT:
        return audio
    gain = math.sqrt(power_of(audio) / power / 10 ** (snr_db / 10))
    return audio + gain * noise


def reverberate(audio: Tensor, room: Tensor) -> Tensor:
    """(N,) in a room with the impulse response (K,), shifted back by the way of the direct sound, its largest
    sample, and at the same power; as Kaldi's wav-reverberate --shift-output."""
    direct = int(room.abs().argmax())
    wet = convolve(audio, room)[direct : direct + len(audio)]
    power = power_of(wet)
    return wet * math.sqrt(power_of(audio) / power) if power > 0 else audio


def made_room(room: MadeRoom, sample_rate: int) -> Tensor:
    """(K,) impulse response: 1, then Gaussian noise that decays by 60 dB in `seconds`. The energy of the
    noise is `direct_db` below that of the direct sound (Polack's model of late reverberation)."""
    samples = max(1, int(room.seconds * sample_rate))
    tail = np.random.default_rng(room.seed).standard_normal(samples)
    tail *= 10.0 ** (-3.0 * np.arange(samples) / samples)
    tail *= 10 ** (-room.direct_db / 20) / np.sqrt(np.square(tail).sum())
    return torch.from_numpy(np.concatenate([[1.0], np.clip(tail, -0.99, 0.99)]).astype(np.float32))


def made_noise(noise: MadeNoise, samples: int, sample_rate: int) -> Tensor:
    """(samples,) Gaussian noise whose power changes by `slope_db` an octave above 100 Hz."""
    white = np.random.default_rng(noise.seed).standard_normal(samples)
    spectrum = np.fft.rfft(white)
    hertz = np.fft.rfftfreq(samples, 1 / sample_rate)
    spectrum *= (np.maximum(hertz, 100.0) / 100.0) ** (noise.slope_db / 20 / math.log10(2))
    return torch.from_numpy(np.fft.irfft(spectrum, samples).astype(np.float32))


def equalize(audio: Tensor, gains_db: Sequence[float], sample_rate: int) -> Tensor:
    """(N,) with these gains at `EQUALIZER_HZ`, interpolated over log frequency, at the same power."""
    size = 1 << (2 * len(audio) - 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    curve = np.interp(np.log(np.maximum(hertz, 1.0)), np.log(EQUALIZER_HZ), gains_db)
    spectrum = np.fft.rfft(audio.double().numpy(), size) * 10 ** (curve / 20)
    shaped = torch.from_numpy(np.fft.irfft(spectrum, size)[: len(audio)].astype(np.float32))
    power = power_of(shaped)
    return shaped * math.sqrt(power_of(audio) / power) if power > 0 else audio


def convolve(signal: Tensor, kernel: Tensor) -> Tensor:
    """(N,), (K,) -> (N + K - 1,), their full convolution, by FFT in float64.

    NumPy's FFT runs in one thread. torch's gives other last bits with another number of threads, and the
    workers of a loader have one each: the same utterance would differ between them and the main process.
    """
    length = len(signal) + len(kernel) - 1
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(signal.double().numpy(), size) * np.fft.rfft(kernel.double().numpy(), size)
    return torch.from_numpy(np.fft.irfft(spectrum, size)[:length].astype(np.float32))


def power_of(audio: Tensor) -> float:
    """Mean square of (N,); the same to the last bit whatever the number of threads, which torch's is not."""
    return float(np.mean(np.square(audio.numpy(), dtype=np.float64))) if len(audio) else 0.0


def band_limit(audio: Tensor, hertz: int, sample_rate: int) -> Tensor:
    """(N,) at `sample_rate` Hz without what lies above `hertz`, which is at most half of it."""
    return resample(resample(audio, sample_rate, 2 * hertz), 2 * hertz, sample_rate)[: len(audio)]
