"""Convolutional subsampling that stands before an encoder: 10 ms frames in, 40 or 80 ms frames out."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maya.errors import MayaError

# Elements of the widest activation that one convolution call may make; larger batches go through in parts.
# cuDNN and torch index a convolution's tensors with 32 bits. On a CPU a part should stay within the cache
# and below 32 MB, where glibc starts to ask the kernel for fresh pages at each allocation: 16 utterances
# of 5 s with 64 channels take 45 ms in parts of 10 MB and 90 ms in one (factor 8, both passes, 2 cores).
MAX_PART_ELEMENTS = 2**31 - 1
MAX_PART_ELEMENTS_CPU = 2_500_000

Lens = TypeVar("Lens", Tensor, int)


def subsampled_lens(lens: Lens, factor: int) -> Lens:
    """Frames left of `lens`, a number or (...,) int64, after log2(factor) halvings that round up."""
    for _ in range(factor.bit_length() - 1):
        lens = (lens + 1) // 2
    return lens


class DepthwiseStridedSubsampling(nn.Module):
    """FastConformer's front end (Rekesh et al. 2023, arXiv:2305.05084), NeMo's `dw_striding`.

    A full 3x3 convolution of stride 2, then depthwise 3x3 of stride 2 and pointwise pairs, ReLU after
    each; then one linear layer over channels x frequency. Frames beyond an utterance's length are zero
    before each strided convolution, so an utterance does not depend on what it is batched with
    (NeMo >= 2.5).

    Parameters are named as NeMo's `encoder.pre_encode`: conv.0, conv.2, conv.3, conv.5, conv.6, out.
    """

    def __init__(self, feat_in: int, d_model: int, factor: int, channels: int) -> None:
        super().__init__()
        if factor not in (4, 8):
            raise MayaError(f"encoder.subsampling_factor={factor} is not known; it is 4 or 8")
        self.factor = factor
        self.channels = channels
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.ReLU()]
        for _ in range(factor.bit_length() - 2):
            layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels))
            layers.append(nn.Conv2d(channels, channels, 1))
            layers.append(nn.ReLU())
        self.conv = nn.Sequential(*layers)
        self.out = nn.Linear(channels * subsampled_lens(feat_in, factor), d_model)

    def forward(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,); S = T / factor, each halving rounded up.

        What stands at and beyond the returned lengths is finite and means nothing.
        """
        frames, bins = x.shape[1:]
        widest = self.channels * ((frames + 1) // 2) * ((bins + 1) // 2)
        limit = MAX_PART_ELEMENTS_CPU if x.device.type == "cpu" else MAX_PART_ELEMENTS
        part = max(1, limit // widest)
        parts = [self._convolve(*each) for each in zip(x.split(part), lens.split(part), strict=True)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.out(y), subsampled_lens(lens, self.factor)

    def _convolve(self, x: Tensor, lens: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, S, C * F')."""
        x = x.masked_fill(_beyond(x.shape[1], lens)[..., None], 0.0)
        # Permuted from (B, T, F, 1) the strides say channels last, which those of `x[:, None]` would leave
        # open, and all that follows keeps that layout: a third less time than channels first.
        x = x.unsqueeze(-1).permute(0, 3, 1, 2)
        for layer in self.conv:
            if isinstance(layer, nn.ReLU):
                lens = (lens + 1) // 2
                mask = (~_beyond(x.shape[2], lens)).to(x.dtype)[:, None, :, None]
                x = x.relu() * mask if torch.compiler.is_compiling() else _ReluMasked.apply(x, mask)
            else:
                x = layer(x)
        # NeMo flattens channel-major, (C, F'); permuting the weight instead would be a copy as well.
        return x.transpose(1, 2).flatten(2)


def _beyond(frames: int, lens: Tensor) -> Tensor:
    """(B, frames) bool, True on padding."""
    return torch.arange(frames, device=lens.device) >= lens[:, None]


class _ReluMasked(torch.autograd.Function):
    """relu(x) * mask for a mask of zeros and ones, over `x` itself.

    The convolution that made `x` does not need it again, and where the mask is zero so is the output,
    whose sign is all that ReLU's gradient needs: the mask costs no extra tensor and no extra backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        x.relu_().mul_(mask)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, output, 0), None
