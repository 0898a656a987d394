"""Audio in which nobody says the text: silence, noise, music and babble, the same for a seed."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KINDS = ("silence", "noise", "music", "babble")
COUNT = 60  # of each kind
_VOICES = (4, 8)  # of babble, the fewest and the most
Samples = NDArray[np.float64]


def sounds(rate: int, rng: np.random.Generator, voices: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """`COUNT` of each kind, 1 to 4 s long: silence, noise that falls by 0, 3 and 6 dB an octave, music, and
    babble of `voices`, recordings (N,) at `rate`. All but silence are between -50 and -20 dB."""
    for number in range(COUNT):
        size = int(rate * rng.uniform(1.0, 4.0))
        yield "silence", torch.zeros(size) + 1e-5 * torch.from_numpy(rng.standard_normal(size)).float()
        yield "noise", at_level(noise(size, (0.0, 0.5, 1.0)[number % 3], rng), rng)
    for _ in range(COUNT):  # after the others, which so are those of earlier measurements
        size = int(rate * rng.uniform(1.0, 4.0))
        yield "music", at_level(music(size, rate, rng), rng)
        yield "babble", at_level(babble(size, voices, rng), rng)


def at_level(samples: Samples, rng: np.random.Generator) -> Tensor:
    """(N,) float32 at a level between -50 and -20 dB."""
    level = 10 ** (rng.uniform(-50, -20) / 20)
    return torch.from_numpy(samples / max(samples.std(), 1e-9) * level).float().clamp(-1, 1)


def noise(size: int, slope: float, rng: np.random.Generator) -> Samples:
    """(N,) noise whose amplitude falls with the frequency to the power of `slope`."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    return np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1.0) ** slope, size)


def music(size: int, rate: int, rng: np.random.Generator) -> Samples:
    """(N,) chords of plucked or held notes with overtones, one a beat, over a drum of noise on each beat, and
    a melody of two notes a beat, at 80 to 160 beats a minute."""
    beat = int(rate * 60 / rng.uniform(80, 160))
    root, decay, out = rng.uniform(80, 180), rng.uniform(0.5, 8.0), np.zeros(size + 2 * beat)
    for begin in range(0, size, beat):
        chord = root * 2 ** (rng.choice([0, 5, 7, 9]) / 12)
        third = rng.choice([3, 4])
        for step in (0, third, 7):
            out[begin : begin + beat] += note(chord * 2 ** (step / 12), beat, rate, decay, rng)
        for half in range(2):
            pitch = 2 * chord * 2 ** (rng.choice([0, 2, third, 5, 7, 9, 12]) / 12)
            place, length = begin + half * (beat // 2), beat // 2
            out[place : place + length] += note(pitch, length, rate, decay, rng)
        drum = np.exp(-np.arange(beat) / rate * 40) * rng.standard_normal(beat)
        out[begin : begin + beat] += rng.uniform(0.2, 1.0) * drum
    return out[:size]


def note(hertz: float, size: int, rate: int, decay: float, rng: np.random.Generator) -> Samples:
    """(N,) six overtones that fall off, with an attack of 10 ms and a decay of so many nepers a second."""
    seconds = np.arange(size) / rate
    overtones = np.arange(1, 7)
    phases = rng.uniform(0, 2 * np.pi, 6)
    waves = np.sin(2 * np.pi * hertz * overtones[:, None] * seconds + phases[:, None])
    shape = np.minimum(1.0, seconds / 0.01) * np.exp(-decay * seconds)
    return (waves / overtones[:, None] ** 1.5).sum(0) * shape


def babble(size: int, voices: Sequence[Tensor], rng: np.random.Generator) -> Samples:
    """(N,) several recordings at once, each at the same level, from a random place on and again from its
    beginning."""
    count = min(len(voices), int(rng.integers(*_VOICES, endpoint=True)))
    chosen = rng.choice(len(voices), size=count, replace=False)
    out = np.zeros(size)
    for number in chosen:
        voice = voices[number].double().numpy()
        out += np.roll(np.resize(voice, max(size, len(voice))), -rng.integers(len(voice)))[:size] / max(
            voice.std(), 1e-9
        )
    return out
