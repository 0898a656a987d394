"""BiasNorm, Zipformer's normalisation (Yao et al. 2024, arXiv:2310.11230, section 2.4)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maya.encoders.zipformer.regularizers import Limit


class BiasNorm(nn.Module):
    """y = x * exp(log_scale) / rms(x - bias), over the channels, without an epsilon.

    The bias is only inside the norm: the length of `x` can then carry information, which LayerNorm removes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.empty(channels))
        self.limit = Limit(-1.5, 1.5)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.log_scale)
        nn.init.normal_(self.bias, std=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C) in the wider type of `x` and the parameters; the norm is fp32 at least."""
        log_scale = self.limit(self.log_scale)
        x = x.to(torch.promote_types(x.dtype, self.bias.dtype))
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _Norm.apply(x, self.bias, log_scale)
        return x * _scale(x, self.bias, log_scale)[0].to(x.dtype)


def _scale(x: Tensor, bias: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 1) each, fp32 at least: the factor of a frame, and the mean square behind it."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x.to(wide) - bias, dim=-1, keepdim=True)
    square = norm.square() / x.shape[-1]
    return square.rsqrt() * log_scale.exp(), square


class _Norm(torch.autograd.Function):
    """Saves x and one number for each frame, with fewer passes over x than autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        scale, square = _scale(x, bias, log_scale)
        ctx.save_for_backward(x, bias, scale, square)
        return x * scale.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, bias, scale, square = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        x, g = x.to(wide), grad.to(wide)
        # y = x s and s = e^l (mean (x - b)^2)^-1/2: dy = s dx - x s / (C square) <x - b, dx - db>.
        along = torch.linalg.vecdot(g, x).unsqueeze(-1) * scale
        share = along / (square * x.shape[-1])
        offset = x - bias
        grad_x = (g * scale).addcmul_(offset, share, value=-1)
        grad_bias = share.reshape(1, -1) @ offset.reshape(-1, x.shape[-1])
        return grad_x.to(grad.dtype), grad_bias.view_as(bias), along.sum()
