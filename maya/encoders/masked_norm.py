"""Batch normalisation over the valid frames of a padded batch."""

import torch
from torch import Tensor, nn


class MaskedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over (B, S, D) frames whose training statistics leave padding out.

    With `masked=False` padding counts, as in NeMo. Evaluation is the same either way: running statistics.
    Statistics are fp32 at least, also under autocast.
    """

    def __init__(self, channels: int, *, masked: bool = True) -> None:
        super().__init__(channels)
        self.masked = masked

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:  # type: ignore[override]
        """(B, S, D), (B, S) bool True on padding -> (B, S, D) in the type of `x`."""
        if not (self.training and self.masked):
            return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
        with torch.autocast(x.device.type, enabled=False):
            mean, var = self._statistics(x, padded)
            scale = self.weight * torch.rsqrt(var + self.eps)
            shift = self.bias - mean * scale
            return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))

    def _statistics(self, x: Tensor, padded: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (D,) over valid frames; moves the running statistics."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        outside = padded[..., None]
        count = (~padded).sum().clamp(min=1).to(wide.dtype)
        mean = wide.masked_fill(outside, 0.0).sum((0, 1)) / count
        var = (wide - mean).masked_fill(outside, 0.0).square().sum((0, 1)) / count
        with torch.no_grad():
            unbiased = var * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, var
