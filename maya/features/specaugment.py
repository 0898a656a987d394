"""SpecAugment (Park et al. 2019, arXiv:1904.08779): random bands of time and frequency set to zero."""

import torch
from torch import Tensor, nn

from maya.config import config


@config
class SpecAugmentConfig:
    """How many bands, and how wide at most. The defaults are those of NeMo's FastConformer recipes."""

    freq_masks: int = 2
    freq_width: int = 27  # mel bins
    time_masks: int = 10
    time_width: float = 0.05  # of the utterance's own length


class SpecAugment(nn.Module):
    """Masks each utterance on its own, while training; does nothing in evaluation.

    Zero is the mean of normalised features, so a masked region says nothing.
    """

    def __init__(self, cfg: SpecAugmentConfig) -> None:
        super().__init__()
        self.cfg = cfg

    def forward(self, feats: Tensor, feat_lens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Masked copy of `feats`.

        Args:
            feats: (B, T, F) features.
            feat_lens: (B,) int64; a time band lies within the utterance, and is at most
                max(1, floor(time_width * length)) frames wide.
            generator: source of randomness on the device of `feats`; torch's own if None.
        """
        cfg = self.cfg
        if not self.training or not (cfg.freq_masks or cfg.time_masks):
            return feats
        size_t, size_f = feats.shape[1:]
        bins = torch.full_like(feat_lens, size_f)
        widest_t = (feat_lens * cfg.time_width).long().clamp(min=1)
        hidden_f = _bands(cfg.freq_masks, bins.new_full(bins.shape, cfg.freq_width), bins, size_f, generator)
        hidden_t = _bands(cfg.time_masks, widest_t, feat_lens, size_t, generator)
        return feats.masked_fill(hidden_f[:, None, :] | hidden_t[:, :, None], 0.0)


def _bands(count: int, widest: Tensor, lens: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """(B, size) bool, True inside `count` bands: width uniform on 0..widest, place uniform within 0..lens."""
    draws = torch.rand(2, lens.shape[0], count, generator=generator, device=lens.device)
    widest, room = torch.minimum(widest, lens)[:, None], lens[:, None]
    width = (draws[0] * (widest + 1)).long()
    start = (draws[1] * (room - width + 1)).long()
    place = torch.arange(size, device=lens.device)
    inside = (place >= start[..., None]) & (place < (start + width)[..., None])
    return inside.any(dim=1)
