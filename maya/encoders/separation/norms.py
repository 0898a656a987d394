"""Layer norms of separation networks over channels and time, which leave padding out."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormKind = Literal["global", "cumulative", "channel"]
EPS = 1e-8


class SeparationNorm(nn.Module):
    """Normalises (B, C, S), with a weight and a bias for each channel.

    kind: "global" over channels and all frames (gLN), "cumulative" over channels and the frames so far (the
    paper's cLN, asteroid's cgLN), "channel" over the channels of each frame (asteroid's cLN). The last two
    are causal. Statistics are fp32 at least, cumulative sums fp64: hours of audio lose no digits.
    """

    def __init__(self, channels: int, kind: NormKind = "global") -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, valid: Tensor | None, past: Tensor | None = None) -> Tensor:
        """x (B, C, S), valid (B, 1, S) bool or None for all; beyond it the output does not matter.

        past: (B, 3) fp64 count, sum and sum of squares of a stream's earlier frames, for the cumulative kind,
        moved on in place.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            if self.kind == "global":
                if valid is None:
                    return F.group_norm(x, 1, weight, bias, EPS)
                mask = valid.to(x.dtype)
                count = mask.sum(2, keepdim=True) * x.shape[1]
                mean = (x * mask).sum((1, 2), keepdim=True) / count
                var = ((x - mean) * mask).square().sum((1, 2), keepdim=True) / count
            elif self.kind == "channel":
                mean = x.mean(1, keepdim=True)
                var = (x - mean).square().mean(1, keepdim=True)
            else:
                mean, var = _cumulative(x, past)
            scale = weight[:, None] * torch.rsqrt(var + EPS)
            return (x - mean) * scale + bias[:, None]


def _cumulative(x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (B, 1, S) of all channels up to each frame."""
    channels, size = x.shape[1:]
    sums, squares = x.sum(1).double().cumsum(1), x.square().sum(1).double().cumsum(1)
    count = channels * torch.arange(1, size + 1, device=x.device, dtype=torch.float64).expand(len(x), size)
    if past is not None:
        count, sums, squares = (
            a + b for a, b in zip((count, sums, squares), past[:, :, None].unbind(1), strict=True)
        )
        if size:
            past.copy_(torch.stack([count[:, -1], sums[:, -1], squares[:, -1]], 1))
    mean = sums / count
    var = (squares / count - mean.square()).clamp(min=0)
    return mean[:, None].to(x.dtype), var[:, None].to(x.dtype)
