"""Convolutional subsampling that stands before an encoder: 10 ms frames in, 40 or 80 ms frames out."""

import torch
from torch import Tensor, nn

from maya.errors import MayaError

MAX_CONV_ELEMENTS = 2**31 - 1  # cuDNN and torch index one convolution's tensor with 32 bits


def subsampled_lens(lens: Tensor, factor: int) -> Tensor:
    """Frames left of `lens` (...,) int64 after log2(factor) convolutions of stride 2: ceil(L / 2) each."""
    for _ in range(factor.bit_length() - 1):
        lens = (lens + 1) // 2
    return lens


class DepthwiseStridedSubsampling(nn.Module):
    """FastConformer's front end (Rekesh et al. 2023, arXiv:2305.05084), NeMo's `dw_striding`.

    A full 3x3 convolution of stride 2, then depthwise 3x3 of stride 2 and pointwise pairs, ReLU after
    each; then one linear layer over channels x frequency. Frames beyond an utterance's length are zero
    before each convolution, so an utterance does not depend on what it is batched with (NeMo >= 2.5).

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
        bands = int(subsampled_lens(torch.tensor(feat_in, device="cpu"), factor))
        self.out = nn.Linear(channels * bands, d_model)

    def forward(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,); S = T / factor, each halving rounded up."""
        batch, frames, bins = x.shape
        if batch > 1 and batch * frames * bins * self.channels // 4 > MAX_CONV_ELEMENTS:
            halves = [self.forward(*part) for part in zip(x.chunk(2), lens.chunk(2), strict=True)]
            return torch.cat([h[0] for h in halves]), torch.cat([h[1] for h in halves])
        x = x[:, None].contiguous(memory_format=torch.channels_last)
        x = _zero_beyond(x, lens)
        for layer in self.conv:
            x = layer(x)
            if isinstance(layer, nn.Conv2d) and layer.stride[0] == 2:
                lens = (lens + 1) // 2
                x = _zero_beyond(x, lens)
            elif isinstance(layer, nn.Conv2d):
                x = _zero_beyond(x, lens)
        # NeMo flattens channel-major, (C, F'); permuting the weight instead would be a copy as well.
        return self.out(x.transpose(1, 2).flatten(2)), lens


def _zero_beyond(x: Tensor, lens: Tensor) -> Tensor:
    """Zero the frames of (B, C, T, F) at and beyond `lens`."""
    beyond = torch.arange(x.shape[2], device=x.device) >= lens[:, None]
    return x.masked_fill(beyond[:, None, :, None], 0.0)
