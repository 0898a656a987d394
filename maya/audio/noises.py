"""Made-up noise, for tests of recognisers: white, pink, hum, telephone tones; the same for a seed."""

import math

import numpy as np
import torch
from torch import Tensor

_LOWEST = 20.0  # Hz: below, pink noise has ever more power that nobody hears
_DTMF = ((697, 770, 852, 941), (1209, 1336, 1477))  # Hz, ITU-T Q.23
_TONE, _PAUSE = 0.1, 0.1  # seconds


def white_noise(samples: int, seed: int) -> Tensor:
    """(samples,) float32 Gaussian noise with a mean square of 1, or close to it."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(samples, np.float32))


def pink_noise(samples: int, seed: int, sample_rate: int) -> Tensor:
    """(samples,) float32 noise with a mean square of 1, whose power falls by 3 dB an octave from 20 Hz on."""
    if samples == 0:
        return torch.zeros(0)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / sample_rate)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, _LOWEST)), samples)
    noise /= math.sqrt(float(np.mean(noise**2))) or 1.0
    return torch.from_numpy(noise.astype(np.float32))


def hum(samples: int, sample_rate: int, hertz: float = 50.0) -> Tensor:
    """(samples,) float32 hum of the mains with its next two odd harmonics, with a mean square of 1."""
    time = np.arange(samples) / sample_rate
    waves = np.sum([np.sin(2 * np.pi * hertz * k * time) / k for k in (1, 3, 5)], axis=0)
    return torch.from_numpy((waves / math.sqrt(0.5 * (1 + 1 / 9 + 1 / 25))).astype(np.float32))


def telephone_tones(samples: int, seed: int, sample_rate: int) -> Tensor:
    """(samples,) float32 tones of dialled keys, 0.1 s each and as much pause between them."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(samples, np.float32)
    length, step = int(_TONE * sample_rate), int((_TONE + _PAUSE) * sample_rate)
    time = np.arange(length) / sample_rate
    for start in range(0, samples - length + 1, step):
        tones = (float(rng.choice(band)) for band in _DTMF)
        sound[start : start + length] = sum(np.sin(2 * np.pi * tone * time) for tone in tones) / 2
    return torch.from_numpy(sound)
