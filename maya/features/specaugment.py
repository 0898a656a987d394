"""SpecAugment (Park et al. 2019, arXiv:1904.08779): masks of time and frequency, and time warping."""

from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.features.frames import frame_mask
from maya.ranges import Count, Share


@config
class SpecAugmentConfig:
    """Number and largest width of the masks. The defaults are those of NeMo's FastConformer recipes; `lhotse`
    returns icefall's."""

    freq_masks: Count = 2
    freq_width: Count = 27  # mel bins
    time_masks: Count = 10
    time_width: Share = 0.05  # of the utterance's own length
    # Above 0, lhotse's rule: masks of at most so many frames, which together cover at most time_masks *
    # time_width of the utterance; only as many of the time_masks masks are used as that share needs.
    time_frames: Count = 0
    warp_frames: Count = 0  # a point of the utterance moves by up to so many frames
    probability: Share = 1.0  # that an utterance is warped, and that it is masked
    fill: Literal["zero", "mean"] = "zero"  # value of masked regions; zero is the mean of normalised features


def lhotse(*, time_mask_ratio: float = 1.0) -> SpecAugmentConfig:
    """The SpecAugment of icefall's LibriSpeech recipes: 10 masks of time over at most 15 % of the utterance,
    2 of 27 bins, warping by 80 frames, each on 9 of 10 utterances. CR-CTC uses 2.5 (25 masks, 37.5 %)."""
    masks = int(10 * time_mask_ratio)
    return SpecAugmentConfig(
        freq_masks=2,
        freq_width=27,
        time_masks=masks,
        time_width=0.15 * time_mask_ratio / masks if masks else 0.0,
        time_frames=100,
        warp_frames=80,
        probability=0.9,
        fill="mean",
    )


class SpecAugment(nn.Module):
    """Warps and masks each utterance separately in training; does nothing in evaluation."""

    def __init__(self, cfg: SpecAugmentConfig) -> None:
        super().__init__()
        self.cfg = cfg

    def forward(self, feats: Tensor, feat_lens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Masked copy of `feats`.

        Args:
            feats: (B, T, F) features.
            feat_lens: (B,) int64; a time band lies within the utterance, and is at most
                max(1, floor(time_width * length)) frames wide. Warping is not done here, see `warp`.
            generator: on the device of `feats`; None is torch's own.
        """
        cfg = self.cfg
        if not self.training or not (cfg.freq_masks or cfg.time_masks):
            return feats
        size_t, size_f = feats.shape[1:]
        bins = torch.full_like(feat_lens, size_f)
        widest_f = bins.new_full(bins.shape, cfg.freq_width)
        counts_t, widest_t = self._time_bands(feat_lens)
        hidden_f = _bands(cfg.freq_masks, None, widest_f, bins, size_f, generator)
        hidden_t = _bands(cfg.time_masks, counts_t, widest_t, feat_lens, size_t, generator)
        hidden = hidden_f[:, None, :] | hidden_t[:, :, None]
        if cfg.probability < 1:
            hidden &= _chosen(feat_lens, cfg.probability, generator)[:, None, None]
        if cfg.fill == "zero":
            return feats.masked_fill(hidden, 0.0)
        valid = frame_mask(feat_lens, size_t)
        means = (feats * valid[..., None]).sum((1, 2)) / (feat_lens.clamp(min=1) * size_f)
        return torch.where(hidden & valid[..., None], means[:, None, None], feats)

    def warp(self, feats: Tensor, feat_lens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`feats` (B, T, F) with time warped; lengths stay. In each utterance one frame, drawn at least
        `warp_frames` + 1 from both ends, moves by up to `warp_frames`. The frames before and behind it are
        stretched or squeezed by linear interpolation. Utterances that are too short stay as they are."""
        reach = self.cfg.warp_frames
        if not self.training or not reach:
            return feats
        draws = torch.rand(2, len(feats), generator=generator, device=feats.device)
        lens = feat_lens.to(draws.dtype)
        centre = (reach + 1 + draws[0] * (lens - 2 * reach - 2)).floor()
        moved = centre + (draws[1] * (2 * reach + 1)).floor() - reach
        warped = (lens > 2 * reach + 2) & _chosen(feat_lens, self.cfg.probability, generator)
        place = torch.arange(feats.shape[1], device=feats.device, dtype=draws.dtype)[None]
        c, m, n = centre[:, None], moved[:, None], lens[:, None]
        source = torch.where(place < m, place * c / m, c + (place - m) * (n - c) / (n - m))
        source = torch.where(warped[:, None] & (place < n), source.clamp(min=0).minimum(n - 1), place)
        low = source.long()
        part = (source - low).to(feats.dtype)[..., None]
        high = (low + 1).clamp(max=feats.shape[1] - 1)
        size = (-1, -1, feats.shape[2])
        return torch.lerp(
            feats.gather(1, low[..., None].expand(size)), feats.gather(1, high[..., None].expand(size)), part
        )

    def _time_bands(self, lens: Tensor) -> tuple[Tensor | None, Tensor]:
        """Number of masks of each utterance (None: all) and their largest width, (B,) each."""
        cfg = self.cfg
        if not cfg.time_frames:
            return None, (lens * cfg.time_width).long().clamp(min=1)
        total = lens * (cfg.time_masks * cfg.time_width)
        counts = (total / cfg.time_frames).ceil().clamp(1, cfg.time_masks)
        return counts, (total / counts).long().clamp(max=cfg.time_frames)


def _chosen(lens: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """(B,) bool, True with `probability`."""
    return torch.rand(lens.shape, generator=generator, device=lens.device) < probability


def _bands(
    count: int,
    counts: Tensor | None,
    widest: Tensor,
    lens: Tensor,
    size: int,
    generator: torch.Generator | None,
) -> Tensor:
    """(B, size) bool, True inside `count` masks, or `counts` (B,) of them: width uniform on 0..widest, start
    uniform within 0..lens."""
    draws = torch.rand(2, lens.shape[0], count, generator=generator, device=lens.device)
    widest, room = torch.minimum(widest, lens)[:, None], lens[:, None]
    width = (draws[0] * (widest + 1)).long()
    start = (draws[1] * (room - width + 1)).long()
    place = torch.arange(size, device=lens.device)
    inside = (place >= start[..., None]) & (place < (start + width)[..., None])
    if counts is not None:
        inside &= frame_mask(counts, count)[..., None]
    return inside.any(dim=1)
