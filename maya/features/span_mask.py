"""Spans of feature frames that training hides, for maya.heads.masked_prediction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maya.config import config
from maya.features.frames import frame_mask
from maya.ranges import NonNegFloat, PosFloat, Share


@config
class SpanMaskConfig:
    """The spans that are hidden, and what stands in their place. The defaults are those of BEST-RQ (Chiu et
    al. 2022, arXiv:2202.01855); `hubert_spans` returns HuBERT's."""

    probability: Share = 0.01  # that a feature frame begins a span; spans overlap
    seconds: PosFloat = 0.4  # length of a span
    noise: NonNegFloat = 0.1  # deviation of the normal noise there, in deviations of the utterance's bin


def hubert_spans() -> SpanMaskConfig:
    """HuBERT's spans (Hsu et al. 2021, arXiv:2106.07447) for feature frames of 10 ms: 8 % of its frames of
    20 ms begin a span of 10 frames. Noise stands in the place of its learnt embedding."""
    return SpanMaskConfig(probability=0.04, seconds=0.2)


@dataclass(slots=True)
class MaskedFeatures:
    """Features before anything was hidden.

    feats: (B, T, F), meaningless beyond lens.     lens: (B,) int64.
    hidden: (B, T) bool, True where the encoder saw noise; None outside of training, when nothing is hidden.
    """

    feats: Tensor
    lens: Tensor
    hidden: Tensor | None = None


def span_mask(
    lens: Tensor, size: int, probability: float, frames: int, generator: torch.Generator | None = None
) -> Tensor:
    """(B, size) bool, True inside spans of `frames` frames that begin with `probability` at each of the
    frames lens (B,). Every utterance with a frame has at least one span."""
    place = torch.arange(size, device=lens.device)
    valid = frame_mask(lens, size)
    draws = torch.rand(valid.shape, generator=generator, device=lens.device).masked_fill(~valid, 2.0)
    begins = ((draws < probability) | (draws == draws.amin(1, keepdim=True))) & valid
    latest = place.where(begins, -frames).cummax(1).values
    return (place - latest < frames) & valid


def hide(feats: Tensor, lens: Tensor, hidden: Tensor, noise: float) -> Tensor:
    """feats (B, T, F) with noise around each bin's mean where hidden (B, T) is True."""
    mean, deviation = bin_statistics(feats, lens)
    return torch.where(hidden[..., None], mean + noise * deviation * torch.randn_like(feats), feats)


def normalized(feats: Tensor, lens: Tensor) -> Tensor:
    """feats (B, T, F) with mean 0 and deviation 1 in each bin over the lens (B,) frames; 0 beyond them."""
    mean, deviation = bin_statistics(feats, lens)
    return ((feats - mean) / deviation) * frame_mask(lens, feats.shape[1])[..., None]


def bin_statistics(feats: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of feats (B, T, F) over the lens (B,) frames, (B, 1, F) each; a bin that does not
    vary has a deviation of 1e-3."""
    used = frame_mask(lens, feats.shape[1])[..., None]
    count = lens.clamp(min=1)[:, None, None]
    mean = feats.masked_fill(~used, 0.0).sum(1, keepdim=True) / count
    spread = (feats - mean).masked_fill(~used, 0.0).square().sum(1, keepdim=True) / count
    return mean, spread.sqrt().clamp(min=1e-3)
