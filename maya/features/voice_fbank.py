"""Filter-bank features of the published speaker encoders: SpeechBrain's and wespeaker's."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.errors import MayaError
from maya.features.base import Features, FeaturesConfig
from maya.features.fbank import ENERGY_FLOOR, kaldi_filterbank
from maya.features.frames import frame_mask
from maya.ranges import PosInt

_WINDOW, _HOP, _RATE = 400, 160, 16000
_RANGE_DB, _FLOOR = 80.0, 1e-10


@config
class VoiceFbankConfig(FeaturesConfig):
    """At 16 kHz, windows of 25 ms every 10 ms. speechbrain: Hamming, triangles on HTK's mel scale up to
    8 kHz, decibels down to 80 below the utterance's highest. wespeaker: Kaldi's with a Hamming window and
    snip_edges, of audio as 16-bit integers, without dither."""

    kind: Literal["voice_fbank"] = "voice_fbank"
    style: Literal["speechbrain", "wespeaker"] = "speechbrain"
    num_mels: PosInt = 80
    sample_rate: PosInt = _RATE

    @property
    def hop_ms(self) -> float:
        return 10.0

    @property
    def n_fft(self) -> int:
        return _WINDOW if self.style == "speechbrain" else 512

    def frames(self, samples: Any) -> Any:
        if self.style == "speechbrain":
            return samples // _HOP + (samples > 0)
        return ((samples - _WINDOW) // _HOP + 1) * (samples >= _WINDOW)


class VoiceFbank(Features, config=VoiceFbankConfig):
    """Buffers, not part of the state dict: `window` (400,) and `filters` (n_fft // 2 + 1, num_mels)."""

    window: Tensor
    filters: Tensor

    def __init__(self, cfg: VoiceFbankConfig) -> None:
        super().__init__()
        if cfg.sample_rate != _RATE:
            raise MayaError(f"features of kind voice_fbank are of {_RATE} Hz, not {cfg.sample_rate}")
        self.cfg, self.decibels = cfg, cfg.style == "speechbrain"
        window = torch.hamming_window(_WINDOW, periodic=self.decibels)
        if self.decibels:
            filters = _htk_triangles(cfg.num_mels, cfg.n_fft)
        else:
            filters = kaldi_filterbank(cfg.num_mels, cfg.n_fft, _RATE, 20.0, 0.0)[0].T
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        lens, audio = self.cfg.frames(audio_lens), audio.float()
        with torch.autocast(audio.device.type, enabled=False):
            if self.decibels:
                windows = nn.functional.pad(audio, (_WINDOW // 2, _WINDOW // 2)).unfold(1, _WINDOW, _HOP)
            else:
                windows = nn.functional.pad(32768.0 * audio, (0, max(0, _WINDOW - audio.shape[1])))
                windows = windows.unfold(1, _WINDOW, _HOP)
                windows = windows - windows.mean(-1, keepdim=True)
                before = torch.cat([windows[..., :1], windows[..., :-1]], -1)
                windows = windows - 0.97 * before
            spectrum = torch.fft.rfft(windows * self.window, self.cfg.n_fft)
            feats = (spectrum.real.square() + spectrum.imag.square()) @ self.filters
            valid = frame_mask(lens, feats.shape[1])[..., None]
            if self.decibels:
                feats = 10.0 * feats.clamp(min=_FLOOR).log10()
                highest = feats.masked_fill(~valid, -torch.inf).amax((1, 2), keepdim=True)
                feats = feats.maximum(highest - _RANGE_DB)
            else:
                feats = feats.clamp(min=ENERGY_FLOOR).log()
            return feats.masked_fill(~valid, 0.0), lens


def _htk_triangles(mels: int, n_fft: int) -> Tensor:
    """(n_fft // 2 + 1, mels): each triangle falls on both sides as its left neighbour is far, as SpeechBrain
    draws them."""
    top = 2595 * torch.log10(torch.tensor(1 + _RATE / 2 / 700, dtype=torch.float64))
    hertz = 700 * (10 ** (torch.linspace(0, 1, mels + 2, dtype=torch.float64) * top / 2595) - 1)
    bins = torch.linspace(0, _RATE // 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    away = (bins - hertz[1:-1]).abs() / (hertz[1:-1] - hertz[:-2])
    return (1 - away).clamp(min=0).float()
