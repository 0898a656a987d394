"""The waveform itself, for encoders with a front end of their own (wav2vec2, HuBERT, WavLM, data2vec)."""

from typing import Literal

import torch
from torch import Tensor

from maya.config import config
from maya.features.base import Features, FeaturesConfig
from maya.features.frames import frame_mask
from maya.ranges import PosFloat, PosInt


@config
class WaveformConfig(FeaturesConfig):
    """A frame is a sample. normalize: mean 0 and variance 1 over each utterance's own samples; the
    `do_normalize` of a model's preprocessor_config.json says what it was trained with.
    variance_guard: added to the variance; transformers' is the default, and fairseq's is 1e-5."""

    kind: Literal["waveform"] = "waveform"
    sample_rate: PosInt = 16000  # Hz
    normalize: bool = True
    variance_guard: PosFloat = 1e-7

    @property
    def num_mels(self) -> int:
        return 1

    @property
    def hop_ms(self) -> float:
        return 1000 / self.sample_rate

    @property
    def hop_samples(self) -> int:
        return 1


class Waveform(Features, config=WaveformConfig):
    """(B, N) → (B, N, 1) fp32, zero beyond an utterance's end."""

    def __init__(self, cfg: WaveformConfig) -> None:
        super().__init__()
        self.cfg = cfg

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Equal to transformers' Wav2Vec2FeatureExtractor of each utterance alone, up to rounding."""
        valid = frame_mask(audio_lens, audio.shape[1])
        x = audio.float() * valid
        if self.cfg.normalize:
            count = audio_lens.clamp(min=1)[:, None]
            x = (x - x.sum(1, keepdim=True) / count) * valid
            x = x / (x.square().sum(1, keepdim=True) / count + self.cfg.variance_guard).sqrt()
        return x[:, :, None], audio_lens
