"""The frames of a learnt filterbank: sizes of its convolution, and of the transposed one that inverts it."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.errors import MayaError


@dataclass(frozen=True, slots=True)
class Framing:
    """Windows of `kernel` samples every `stride` samples, a divisor of it.

    padded: zeros at both ends, so that all samples are in as many windows, and a last stride is filled up, as
    in torchaudio. Without, windows begin at sample 0 and an unfinished one is left out, as in asteroid.
    """

    kernel: int
    stride: int
    padded: bool

    def __post_init__(self) -> None:
        if self.kernel % self.stride:
            raise MayaError(f"windows of {self.kernel} samples cannot overlap by a stride of {self.stride}: "
                            "make kernel_size a multiple of stride")  # fmt: skip

    @property
    def pad(self) -> int:
        """Zeros before the first sample."""
        return self.kernel - self.stride if self.padded else 0

    def frames(self, samples: Any) -> Any:
        """Windows of so many samples, at least 1: an int, or a tensor or array of integers."""
        if self.padded:
            return -(-samples // self.stride) + self.kernel // self.stride - 1 + (samples == 0)
        full = (samples - self.kernel) // self.stride + 1
        return full * (full > 0) + (full <= 0)

    def pad_audio(self, audio: Tensor) -> Tensor:
        """(B, N) → (B, 1, n) whose windows are `frames(N)`."""
        needed = (self.frames(audio.shape[1]) - 1) * self.stride + self.kernel
        return F.pad(audio, (self.pad, needed - self.pad - audio.shape[1]))[:, None]

    def synthesize(self, frames: Tensor, weight: Tensor, samples: int) -> Tensor:
        """frames (R, C, S) by weight (C, 1, kernel) → (R, samples), zero where no window reaches."""
        audio = F.conv_transpose1d(frames, weight, stride=self.stride)[:, 0, self.pad :]
        return F.pad(audio, (0, max(0, samples - audio.shape[1])))[:, :samples]


def valid_frames(lens: Tensor, size: int) -> Tensor:
    """(B, 1, size) bool, True on frames before `lens` (B,)."""
    return torch.arange(size, device=lens.device) < lens[:, None, None]
