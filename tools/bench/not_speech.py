"""Sounds that are not speech, made by code and the same each time: (N,) float32 at 16 kHz."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RATE = 16000
Samples = NDArray[np.float32]


def silence(seconds: float) -> Samples:
    """Digital zero."""
    return np.zeros(round(seconds * RATE), np.float32)


def white_noise(seconds: float, level_db: float = -30.0, seed: int = 0) -> Samples:
    """Gaussian noise of `level_db` dBFS."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE), np.float32)
    return samples * np.float32(10 ** (level_db / 20))


def pink_noise(seconds: float, level_db: float = -30.0, seed: int = 0) -> Samples:
    """Noise whose power falls by 3 dB an octave, in blocks of a minute."""
    rng, blocks = np.random.default_rng(seed), []
    for begin in range(0, round(seconds * RATE), 60 * RATE):
        count = min(60 * RATE, round(seconds * RATE) - begin)
        spectrum = np.fft.rfft(rng.standard_normal(count))
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20))
        block = np.fft.irfft(spectrum, count)
        blocks.append(block / np.sqrt(np.mean(block**2)))
    return (np.concatenate(blocks) * 10 ** (level_db / 20)).astype(np.float32)


def fan(seconds: float, seed: int = 0) -> Samples:
    """Mains hum with harmonics in noise without treble, as of a ventilator."""
    t = np.arange(round(seconds * RATE)) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 7))
    return (0.02 * hum + 0.5 * pink_noise(seconds, -30, seed)).astype(np.float32)


def chords(seconds: float, seed: int = 0) -> Samples:
    """Triads of decaying tones with harmonics, two a second."""
    rng, out = np.random.default_rng(seed), silence(seconds)
    t = np.arange(RATE // 2) / RATE
    for begin in range(0, len(out) - len(t), len(t)):
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        for step in (0, 4, 7):
            tone = root * 2 ** (step / 12)
            for harmonic in range(1, 6):
                wave = np.sin(2 * np.pi * tone * harmonic * t) * np.exp(-3 * t) / harmonic**1.5
                out[begin : begin + len(t)] += 0.08 * wave
    return out


def melody(seconds: float, seed: int = 0) -> Samples:
    """Single sine tones of 0.25 s."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 4) / RATE
    edge = np.minimum(1, np.minimum(t, t[::-1]) / 0.01)
    count = round(seconds * 4)
    notes = [0.2 * edge * np.sin(2 * np.pi * 220 * 2 ** (rng.integers(0, 25) / 12) * t) for _ in range(count)]
    return np.concatenate(notes).astype(np.float32)


def dtmf(seconds: float, seed: int = 0) -> Samples:
    """Telephone keys: 0.1 s of two tones, 0.1 s of silence."""
    rng, rows, columns = np.random.default_rng(seed), (697, 770, 852, 941), (1209, 1336, 1477, 1633)
    t, pause, keys = np.arange(RATE // 10) / RATE, np.zeros(RATE // 10), []
    for _ in range(round(seconds * 5)):
        pair = rng.choice(rows), rng.choice(columns)
        keys += [sum(0.2 * np.sin(2 * np.pi * f * t) for f in pair), pause]
    return np.concatenate(keys).astype(np.float32)


def coughs(seconds: float, seed: int = 0) -> Samples:
    """Two bursts of noise every three seconds, as of coughs, over faint noise."""
    rng, out = np.random.default_rng(seed), white_noise(seconds, -60, seed)
    t = np.arange(RATE // 4) / RATE
    for begin in range(0, len(out) - RATE, 3 * RATE):
        for shift in (0, round(0.35 * RATE)):
            burst = rng.standard_normal(len(t)) * np.exp(-t / 0.05) * np.minimum(1, t / 0.005)
            out[begin + shift : begin + shift + len(t)] += 0.2 * np.convolve(burst, np.ones(3) / 3, "same")
    return out


NOT_SPEECH: dict[str, Callable[[float], Samples]] = {
    "digital zero": silence,
    "noise at -60 dB": lambda seconds: white_noise(seconds, -60),
    "white noise": white_noise,
    "pink noise": pink_noise,
    "fan": fan,
    "chords": chords,
    "melody": melody,
    "telephone keys": dtmf,
    "coughs": coughs,
}
