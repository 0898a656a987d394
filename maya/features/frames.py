"""Sizes of windows and hops in samples, and masks of frames."""

import torch
from torch import Tensor

from maya.errors import MayaError

_ROUNDING = 1e-6  # of a sample, by which a product of floats may be off


def check_frames(sample_rate: int, hop_ms: float) -> None:
    """Raises MayaError for an impossible sample rate, or a hop of less than a sample."""
    if not 1000 <= sample_rate <= 768_000:
        raise MayaError(
            f"features.sample_rate={sample_rate} is no rate of audio; take one such as 8000 or 16000"
        )
    if frame_samples(hop_ms, sample_rate) < 1:
        raise MayaError(
            f"features.hop_ms={hop_ms:g} is less than a sample at {sample_rate} Hz; raise it to 10"
        )


def frame_samples(milliseconds: float, sample_rate: int) -> int:
    """Samples in so many milliseconds at `sample_rate` Hz, rounded down as in NeMo, Kaldi and lhotse: at
    11 025 Hz a window of 25 ms has 275 samples, and a hop of 10 ms has 110."""
    return int(sample_rate * milliseconds / 1000 + _ROUNDING)


def frame_mask(lens: Tensor, size: int) -> Tensor:
    """lens (B,) -> (B, size) bool, True on valid frames."""
    return torch.arange(size, device=lens.device) < lens[:, None]
