"""Voice activity by energy: the level above the background noise. It needs no weights.

The noise level of each stream falls fast and rises slowly. A window is speech where its level from 80 to 4000
Hz is 9 dB above that of the noise and above -55 dBFS, and its spectrum is not as flat as that of noise; the
0.2 s after it count as speech too, because consonants are short and flat.
"""

import numpy as np
import torch
from torch import Tensor

RATE = 16000
WINDOW = 512
_BAND = (80.0, 4000.0)  # Hz
_ABOVE_NOISE = 9.0  # dB
_LOWEST = -55.0  # dBFS
_FLATTEST = 0.3  # geometric over arithmetic mean of the power spectrum: white noise has 0.56, a vowel 0.05
_FALL = 0.3  # of the difference, a window
_RISE = 2.0 * WINDOW / RATE  # dB a window: 2 dB/s
_START = -50.0  # dBFS, the noise level before a recording whose first window is not noise
_HANGOVER = 6  # windows


class EnergyVAD:
    """Probabilities of speech, 0 or 1. The interface is that of `maya.audio.vad.silero.SileroVAD`."""

    window, rate = WINDOW, RATE

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The noise level in dB (NaN: none yet) and the windows of hangover that remain, (B,) each."""
        return torch.full((batch,), torch.nan, dtype=torch.float64), torch.zeros(batch, dtype=torch.int64)

    def __call__(self, audio: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """audio (B, T * 512) at 16 kHz -> probabilities (B, T), state."""
        if audio.shape[1] == 0:
            return torch.zeros(len(audio), 0), state
        levels, flatness = level_and_flatness(audio)
        noise, hangover = (x.tolist() for x in state)
        probabilities = torch.zeros(levels.shape)
        for row in range(len(levels)):
            pairs = zip(levels[row].tolist(), flatness[row].tolist(), strict=True)
            for i, (level, flat) in enumerate(pairs):
                if noise[row] != noise[row]:  # NaN
                    noise[row] = level if flat > _FLATTEST else min(level, _START)
                loud = level > max(noise[row] + _ABOVE_NOISE, _LOWEST)
                hangover[row] = _HANGOVER if loud and flat < _FLATTEST else hangover[row] - 1
                probabilities[row, i] = float(hangover[row] > 0)
                change = level - noise[row]
                noise[row] += change * _FALL if change < 0 else min(change, _RISE)
                noise[row] = max(noise[row], -100.0)
        state = torch.tensor(noise, dtype=torch.float64), torch.tensor(hangover).clamp(min=0)
        return probabilities, state


def level_and_flatness(audio: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T * 512) at 16 kHz -> levels (B, T) in dBFS and flatness (B, T) of the band from 80 to 4000 Hz."""
    windows = audio.double().reshape(len(audio), -1, WINDOW)
    taper = torch.from_numpy(np.hanning(WINDOW))
    powers = torch.fft.rfft(windows * taper).abs().square() / taper.square().sum() / WINDOW
    hertz = torch.fft.rfftfreq(WINDOW, 1 / RATE)
    band = powers[..., (hertz >= _BAND[0]) & (hertz <= _BAND[1])] + 1e-14
    levels = 10 * torch.log10(2 * band.sum(-1))
    return levels, band.log().mean(-1).exp() / band.mean(-1)
