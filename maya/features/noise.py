"""White noise at a random level, added to waveforms while training."""

from typing import Annotated

import torch
from torch import Tensor, nn

from maya.config import config
from maya.features.frames import frame_mask
from maya.ranges import Ascending, Finite, Share


@config
class WhiteNoiseConfig:
    """probability: share of utterances that get noise, 0 for none. snr_db: lowest and highest
    signal-to-noise ratio, drawn evenly in decibels."""

    probability: Share = 0.0
    snr_db: Annotated[tuple[Finite, Finite], Ascending()] = (10.0, 40.0)


class AddNoise(nn.Module):
    """Gaussian noise relative to the level of each utterance, in training only.

    It imitates the largest difference between recordings of one vocabulary: the level of speech over the
    noise of room and microphone. Normalised features show it, unlike a change of gain.
    """

    def __init__(self, cfg: WhiteNoiseConfig) -> None:
        super().__init__()
        self.cfg = cfg

    def forward(self, audio: Tensor, audio_lens: Tensor) -> Tensor:
        """audio (B, N) zero beyond audio_lens (B,) samples → the same shape; padding stays zero."""
        if not self.training or self.cfg.probability == 0:
            return audio
        valid = frame_mask(audio_lens, audio.shape[1])
        power = (audio * valid).square().sum(1) / audio_lens.clamp(min=1)
        low, high = self.cfg.snr_db
        draw = torch.rand(2, len(audio), device=audio.device)
        snr = 10 ** ((low + (high - low) * draw[0]) / 10)
        chosen = draw[1] < self.cfg.probability
        level = torch.where(chosen, (power / snr).sqrt(), 0.0)
        return audio + torch.randn_like(audio) * valid * level[:, None]
