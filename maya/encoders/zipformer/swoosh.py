"""SwooshL and SwooshR, Zipformer's activations (Yao et al. 2024, arXiv:2310.11230, section 2.5).

    swoosh(x) = log(1 + exp(x - shift)) - 0.08 x - constant,    swoosh'(x) = sigmoid(x - shift) - 0.08

Under autograd these forms save only the input and recompute the rest in the backward pass. torch.compile
fuses the plain formula as well or better, so compiled graphs use that.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SLOPE = 0.08
# Elements in a block on a CPU: several passes over a block in the second-level cache take a third less time
# than the same passes over memory.
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Swoosh:
    """One of the two functions; `constant` makes SwooshR(0) = 0 and keeps SwooshL's minimum near -0.35."""

    shift: float
    constant: float

    def __call__(self, x: Tensor) -> Tensor:
        """Any shape and floating type, elementwise."""
        if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
            return _Apply.apply(x, self)
        return self.plain(x)

    def plain(self, x: Tensor) -> Tensor:
        """The formula as written, in fp32 at least; torch differentiates it."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Above 40 the softplus is its argument in fp64 too, and exp(40) is far from fp32's largest number.
        return (F.softplus(wide - self.shift, 1.0, 40.0) - SLOPE * wide - self.constant).to(x.dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """linear(swoosh(x) * mask): x (..., N), weight (M, N), bias (M,), mask broadcast to x -> (..., M).

        Saves x for the backward pass, but neither the activation nor its product with the mask.
        """
        tracked = x.requires_grad or weight.requires_grad
        if torch.is_grad_enabled() and tracked and not torch.compiler.is_compiling():
            return _Linear.apply(x, weight, bias, mask, self)
        activation = self.plain(x)
        return F.linear(activation if mask is None else activation * mask, weight, bias)

    def fast(self, x: Tensor) -> Tensor:
        """`plain` to rounding, without a gradient."""
        wide = x.contiguous().to(torch.promote_types(x.dtype, torch.float32))
        out = torch.empty_like(wide)
        for part, y in zip(_blocks(wide), _blocks(out), strict=True):
            torch.sub(part, self.shift, out=y)
            torch.ops.aten.softplus.out(y, 1.0, 40.0, out=y)
            y.sub_(part, alpha=SLOPE).sub_(self.constant)
        return out.to(x.dtype)

    def times_slope(self, grad: Tensor, x: Tensor) -> Tensor:
        """grad * swoosh'(x), as a new tensor."""
        wide = x.contiguous().to(torch.promote_types(x.dtype, torch.float32))
        out = torch.empty_like(wide)
        for g, part, y in zip(_blocks(grad.contiguous()), _blocks(wide), _blocks(out), strict=True):
            torch.sub(part, self.shift, out=y)
            y.sigmoid_().sub_(SLOPE).mul_(g)
        return out.to(x.dtype)


swoosh_l = Swoosh(4.0, 0.035)
swoosh_r = Swoosh(1.0, 0.313261687)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    flat = x.view(-1)
    return flat.split(_BLOCK) if x.device.type == "cpu" else (flat,)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Swoosh) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return kind.fast(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.kind.times_slope(grad, x), None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, kind: Swoosh
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.kind, ctx.bias_type = kind, None if bias is None else bias.dtype
        activation = kind.fast(x)
        if mask is not None:
            activation *= mask
        return F.linear(activation, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.kind.times_slope((rows @ weight.to(rows.dtype)).view(x.shape), x)
            if mask is not None:
                grad_x *= mask
        if ctx.needs_input_grad[1]:
            activation = ctx.kind.fast(x)
            if mask is not None:
                activation *= mask
            activation = activation.view(-1, activation.shape[-1]).to(rows.dtype)
            grad_weight = (rows.mT @ activation).to(weight.dtype)
        if ctx.bias_type is not None and ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0).to(ctx.bias_type)
        return grad_x, grad_weight, grad_bias, None, None
