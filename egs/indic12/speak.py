"""One sentence of eSpeak NG at 16 kHz, the same bytes every time; see `maya.audio.espeak`.

Nothing here imports torch, whose threads do not survive a fork.
"""

import functools

import numpy as np

from maya.audio.espeak import PITCH, PITCH_RANGE, RATE, VOLUME, espeak_version, library, spoken

__all__ = ["SAMPLE_RATE", "add_surroundings", "espeak_version", "library", "resample", "speak"]

SAMPLE_RATE = 16000
_QUIETER = 50  # of 100: at 100 some voices reach full scale and clip inside eSpeak
_UP, _DOWN = 320, 441  # 16000 / 22050 in lowest terms
_HALF_TAPS = 24


def speak(text: str, language: str, variant: str, *, rate: int, pitch: int, pitch_range: int) -> np.ndarray:
    """Samples of `text`, (N,) int16 at 16 kHz, peaks near a quarter of full scale.

    `variant` is a file of eSpeak's `voices/!v` ("f1", "Annie"); `rate` is in words a minute, `pitch` and
    `pitch_range` run from 0 to 99 with 50 the voice's own. Raises MayaError when eSpeak fails.
    """
    voice = f"{language}+{variant}"
    parameters = ((RATE, rate), (VOLUME, _QUIETER), (PITCH, pitch), (PITCH_RANGE, pitch_range))
    return resample(spoken(text, voice, parameters))


def add_surroundings(
    samples: np.ndarray, seed: int, *, lead: float, tail: float, peak: float, noise: float
) -> np.ndarray:
    """Scale to `peak` (of full scale), put `lead` and `tail` seconds around, lay white noise over it all.

    `samples` (N,) int16 -> (N + margins,) int16; `noise` is its RMS in units of one of the 65 536 steps.
    RandomState, because numpy promises that its numbers never change.
    """
    margins = [np.zeros(round(s * SAMPLE_RATE)) for s in (lead, tail)]
    scaled = samples * (peak * 32767 / np.abs(samples.astype(np.int32)).max())
    padded = np.concatenate([margins[0], scaled, margins[1]])
    padded += noise * np.random.RandomState(seed).standard_normal(len(padded))
    return np.clip(np.round(padded), -32768, 32767).astype(np.int16)


@functools.cache
def _filters() -> np.ndarray:
    """One windowed-sinc low-pass per output phase, (320, 48) int64; each sums to 2**15, which is 1."""
    phase = np.arange(_UP)[:, None] * (_DOWN % _UP) % _UP / _UP
    time = np.arange(2 * _HALF_TAPS)[None, :] - (_HALF_TAPS - 1) - phase
    cutoff = 0.94 * _UP / _DOWN  # of the input's Nyquist frequency: 7.5 kHz; the slope ends near 8 kHz
    # Kaiser window, beta 9: 90 dB down outside
    window = np.i0(9.0 * np.sqrt(np.clip(1 - (time / _HALF_TAPS) ** 2, 0, 1))) / np.i0(9.0)
    taps = cutoff * np.sinc(cutoff * time) * window
    whole = np.round(taps / taps.sum(axis=1, keepdims=True) * 2**15).astype(np.int64)
    whole[:, _HALF_TAPS - 1] += 2**15 - whole.sum(axis=1)
    return whole


def resample(samples: np.ndarray) -> np.ndarray:
    """22 050 Hz to 16 kHz: (N,) int16 -> (ceil(N * 320 / 441),) int16.

    A 48-tap Kaiser-windowed sinc in integers: sums of integers have no rounding order, so that the bytes
    do not depend on numpy's build or the processor.
    """
    out = -(-len(samples) * _UP // _DOWN)
    padded = np.concatenate([np.zeros(_HALF_TAPS - 1, np.int64), samples, np.zeros(_HALF_TAPS + 1, np.int64)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HALF_TAPS)
    n = np.arange(out)
    sums = np.einsum("nk,nk->n", windows[n * _DOWN // _UP], _filters()[n % _UP])
    return np.clip((sums + 2**14) >> 15, -32768, 32767).astype(np.int16)
