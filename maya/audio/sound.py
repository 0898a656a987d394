"""Numbers about the sound of a recording: level, noise, clipping, bandwidth, silence, offset.

They are measured for every utterance while it is decoded, at under 1 ms per second of audio, also at 48 kHz.
All are measured on frames of 20 ms of the channels' average, which is the input of a model.
"""

from dataclasses import dataclass
from math import log10

import numpy as np
from numpy.typing import NDArray

_FRAMES_PER_SECOND = 50
_FULL_SCALE = 0.999  # of 1: 16 bit audio ends at 1 - 2 ** -15, and lossy codecs move it a little
_RUN = 3  # samples at full scale in a row: a peak may touch it, only clipping stays there
_MARGIN = 10 ** (-15.9 / 10)  # of active speech above its threshold, ITU-T P.56 (12/2011), method B
_DIGITAL_SILENCE = 1e-9  # power, -90 dBFS: below any recorded noise, 10 dB above rounding to 16 bits
_NOISE_PERCENTILE = 10  # of frame powers: speech pauses, and stops for breath, for more of the time than that
_STANDS_OUT = 2.0  # times the noise power, 3 dB: a frame that has speech in it
_QUIETER_THAN_SPEECH = 10 ** (-30 / 10)  # of active speech: silence before and after it
_ABOVE_NOISE = 4.0  # times the noise power, 6 dB: not silence
_HIGH_BAND = 5000.0  # Hz: above 4 kHz by the slope of a short resampling filter
_SPECTRA = 128  # frames taken for the spectrum at most, spread over the recording
_CANCELLED = 0.02  # -17 dB
_LIMIT = 100.0  # dB, either way: beyond is as good as infinite


@dataclass(frozen=True, slots=True)
class Sound:
    """level: dBFS of active speech, 0 for a square wave of full scale. snr: dB. clipped: share of samples at
    full scale in runs. dc_offset: mean sample, 1 is full scale. high_band: power above 5 kHz in dB of all;
    None where the sampling rate leaves no room for it. lead, trail: seconds before and after speech."""

    level: float
    snr: float
    clipped: float
    dc_offset: float
    high_band: float | None
    lead: float
    trail: float


def measure_sound(samples: NDArray[np.float32], sample_rate: int) -> Sound:
    """Measure (N, C) finite samples in [-1, 1], N > 0."""
    mono = samples.mean(axis=1, dtype=np.float64)
    frames = _frames(mono, max(2, sample_rate // _FRAMES_PER_SECOND))
    powers = np.einsum("ij,ij->i", frames, frames) / frames.shape[1]
    active = active_power(powers)
    noise, snr = noise_and_snr(powers)
    # Where noise is as loud as speech there is no telling silence from either.
    floor = min(max(active * _QUIETER_THAN_SPEECH, noise * _ABOVE_NOISE), active / 2)
    sounding = np.flatnonzero(powers >= floor)
    seconds = frames.shape[1] / sample_rate
    return Sound(
        level=_decibels(active),
        snr=snr,
        clipped=clipped_share(samples),
        dc_offset=float(mono.mean()),
        high_band=_high_band(frames, sample_rate),
        lead=float(sounding[0]) * seconds,
        trail=float(len(powers) - 1 - sounding[-1]) * seconds,
    )


def active_power(powers: NDArray[np.float64]) -> float:
    """Mean power of the frames that hold speech: the most frames of which none is more than 15.9 dB below
    their mean. That is the active speech level of ITU-T P.56, method B, on frames instead of an envelope."""
    falling = np.sort(powers)[::-1]
    means = np.cumsum(falling) / np.arange(1, len(falling) + 1)
    return float(means[np.flatnonzero(falling >= _MARGIN * means)[-1]])


def noise_and_snr(powers: NDArray[np.float64]) -> tuple[float, float]:
    """(power of the noise, signal-to-noise ratio in dB) from the powers of frames.

    The noise is a low percentile of the frame powers (a quantile as in Stahl, Fischer and Bippus, "Quantile
    based noise estimation for spectral subtraction and Wiener filtering", ICASSP 2000, over all frequencies
    at once); the speech is what the frames that stand out have more. Frames of digital silence say nothing
    of the noise. Sound that never changes counts as noise.
    """
    recorded = powers[powers > _DIGITAL_SILENCE]
    if len(recorded) == 0:
        return 0.0, -_LIMIT
    noise = float(np.percentile(recorded, _NOISE_PERCENTILE))
    louder = recorded[recorded > _STANDS_OUT * noise]
    speech = float((louder if len(louder) else recorded).mean()) - noise
    return noise, _decibels(speech / noise)


def clipped_share(samples: NDArray[np.float32]) -> float:
    """Share of (N, C) samples that are at full scale for three or more in a row; the worst channel's."""
    if len(samples) < _RUN or max(samples.max(), -samples.min()) < _FULL_SCALE:
        return 0.0
    worst = 0
    for channel in samples.T:
        full = np.zeros(len(channel) + 2, np.int8)
        full[1:-1] = np.abs(channel) >= _FULL_SCALE
        edges = np.diff(full)
        lengths = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
        worst = max(worst, int(lengths[lengths >= _RUN].sum()))
    return worst / len(samples)


def channel_average(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C) to (N,). Channel by channel: four times as fast as a mean of rows, and alike in any layout."""
    average = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        average += samples[:, channel]
    return average / np.float32(samples.shape[1]) if samples.shape[1] > 1 else average


def cancelled_share(samples: NDArray[np.float32], average: NDArray[np.float32]) -> float | None:
    """Power of the average (N,) of (N, C) samples, of the channels' own, where the channels cancel one
    another; None where they do not, or are silent. Offsets do not count.

    The average of C independent channels has 1 / C of their power, that of equal ones all of it; here it has
    less than a fiftieth of the former.
    """
    channels = samples.shape[1]
    if channels == 1 or len(samples) == 0:
        return None
    power = sum(_variance(samples[:, channel]) for channel in range(channels)) / channels
    share = _variance(average) / power if power > _DIGITAL_SILENCE else 1.0
    return share if share < _CANCELLED / channels else None


def _variance(signal: NDArray[np.float32]) -> float:
    centred = signal - signal.mean()
    return float(np.dot(centred, centred)) / len(signal)


def _frames(mono: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """(N,) to (F, length), F >= 1: a rest at the end is left out, and shorter audio filled with zeros.

    Each without its mean: digital silence stays such beside an offset, and drifts do not count as sound."""
    if len(mono) < length:
        mono = np.pad(mono, (0, length - len(mono)))
    frames = mono[: len(mono) // length * length].reshape(-1, length)
    return frames - frames.mean(axis=1, keepdims=True)


def _high_band(frames: NDArray[np.float64], sample_rate: int) -> float | None:
    if sample_rate / 2 < 1.2 * _HIGH_BAND:
        return None
    taken = frames[:: -(-len(frames) // _SPECTRA)]
    spectra = np.fft.rfft(taken * np.hanning(frames.shape[1]), axis=1)
    powers = np.einsum("ij,ij->j", spectra.real, spectra.real)
    powers += np.einsum("ij,ij->j", spectra.imag, spectra.imag)
    first = int(np.ceil(_HIGH_BAND * frames.shape[1] / sample_rate))
    total = float(powers.sum())
    return _decibels(float(powers[first:].sum()) / total if total > 0 else 0.0)


def _decibels(power: float) -> float:
    return float(np.clip(10 * log10(power), -_LIMIT, _LIMIT)) if power > 0 else -_LIMIT
