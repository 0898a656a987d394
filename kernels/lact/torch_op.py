"""The parts of an update and of an apply, in torch operators; kernel.py has the same parts in Triton.

x, y: (N, T, D), for N = utterances * heads and T frames of a span, in the dtype of the products.
up: (N, 2 Dh, D), w0 over w2. down: (N, D, Dh), w1. Hidden tensors: (N, T, Dh), or (N, T, 2 Dh) with w0's half
before w2's. rates: (N, T, 3) in the dtype of the state. share: (N,), a factor on all rates, or None. dx is
the gradient of x.
"""

import torch
from torch import Tensor

from maya.kernels.lact.state import RENORMALISE_EPS
from maya.kernels.precision import compute_dtype

# Devices whose products of 16-bit matrices can write fp32; "meta" computes nothing, but counts as CUDA does.
WIDE_OUTPUT = ("cuda", "meta")


class TorchOps:
    """The parts that have a Triton form."""

    # Whether frames are gathered for a whole plan at once, so that its spans are views. This saves launches.
    # Without it, each span is gathered on its own and fits into a processor's cache.
    gathers_ahead = False

    def gather(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, H, ...) as (B H, T, ...), a copy, with 0 where mask (B, T) is false."""
        part = x.transpose(1, 2)
        out = part.new_empty(part.shape).copy_(part)
        if mask is not None:
            out.masked_fill_(~mask.view(mask.shape[0], 1, -1, *(1,) * (x.dim() - 3)), 0.0)
        return out.flatten(0, 1)

    def swiglu(self, x: Tensor, up: Tensor) -> Tensor:
        """silu(w0 x) * (w2 x), (N, T, Dh)."""
        a, c = _wide(torch.bmm(x, up.mT)).chunk(2, -1)
        return (torch.sigmoid(a).mul_(a).mul_(c)).to(x.dtype)

    def terms(
        self, x: Tensor, y: Tensor, up: Tensor, down: Tensor, rates: Tensor | None,
        share: Tensor | None = None, *, keep: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:  # fmt: skip
        """The gradient of <f(x), y> by (a, c), and the hidden layer at x, times their rates.

        With a = w0 x, c = w2 x and delta = w1^T y, these are the halves (delta c silu'(a), delta silu(a)),
        and silu(a) c. keep: also returns (a, c) and delta, which `second_order` takes.
        """
        ac, delta = torch.bmm(x, up.mT), torch.bmm(y, down)
        a, c = _wide(ac).chunk(2, -1)
        wide = _wide(delta)
        s = torch.sigmoid(a)
        silu = a * s
        halves = torch.empty_like(ac, dtype=a.dtype)
        first, second = halves.chunk(2, -1)
        torch.mul(silu, 1 - s, out=first).add_(s).mul_(c).mul_(wide)
        torch.mul(silu, wide, out=second)
        hidden = silu.mul_(c)
        if rates is not None:
            rate0, rate1, rate2 = _shared(rates, share).to(a.dtype).split(1, -1)
            first.mul_(rate0)
            second.mul_(rate2)
            hidden = hidden.mul_(rate1)
        return halves.to(x.dtype), hidden.to(x.dtype), (ac, delta) if keep else None

    def second_order(
        self, saved: tuple[Tensor, Tensor], dhalves: Tensor, dhidden: Tensor, rates: Tensor,
        share: Tensor | None, drates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The backward of the pointwise part of `terms`: gradients of (a, c), of delta and of the rates (N,
        T, 3).

        saved: (a, c) and delta of `terms`. dhalves (N, T, 2 Dh), dhidden: gradients of its results; dhalves
        may be overwritten. drates: the tensor for the last result, with the strides of rates, or None.
        """
        dtype = saved[0].dtype
        a, c = _wide(saved[0]).chunk(2, -1)
        delta = _wide(saved[1])
        p0, p2 = _wide(dhalves).chunk(2, -1)
        p1 = _wide(dhidden)
        s = torch.sigmoid(a)
        silu = a * s
        silu1 = (1 - s).mul_(silu).add_(s)  # first and second derivative of silu
        silu2 = (a - 2 * silu).add_(2).mul_(s).mul_(1 - s)
        rate0, rate1, rate2 = _shared(rates, share).to(a.dtype).split(1, -1)
        delta_c, delta_silu1 = delta * c, delta * silu1
        pairs = ((p0, delta_silu1 * c), (p1, silu * c), (p2, delta * silu))
        stacked = torch.stack([torch.linalg.vecdot(p, y) for p, y in pairs], -1).to(rates.dtype)
        stacked = _shared(stacked, share)
        e0, e1, e2 = p0 * rate0, p1 * rate1, p2 * rate2
        ddelta = (c * silu1).mul_(e0).addcmul_(e2, silu)
        out = dhalves if dhalves.dtype == a.dtype else torch.empty_like(dhalves, dtype=a.dtype)
        da, dc = out.chunk(2, -1)
        torch.mul(e2, delta, out=da).addcmul_(e1, c).mul_(silu1).addcmul_(e0, delta_c.mul_(silu2))
        torch.mul(e0, delta_silu1, out=dc).addcmul_(e1, silu)
        return out.to(dtype), ddelta.to(dtype), stacked if drates is None else drates.copy_(stacked)

    def add_renormalise(
        self, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None, learned: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Rows of w + scale * step, scaled to the norms; w itself where `learned` is false. The second result
        is the same in `dtype`, that of products; if w has it too, they are one tensor.

        w: (N, R, C), or (H, R, C) if all utterances share it; step: (N, R, C); norms: (N, R); scale, learned:
        (N,) or None.
        """
        z, length = _sum_and_length(w, step, scale)
        z.mul_((norms / (length + RENORMALISE_EPS))[..., None])
        if learned is not None:
            each = z.unflatten(0, (-1, len(w)))
            z = torch.where(learned.view(*each.shape[:2], 1, 1), each, w).flatten(0, 1)
        return z, z.to(dtype)

    def add_renormalise_backward(
        self, grad: Tensor, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None,
        learned: Tensor | None, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Gradients of w, step, norms and scale from that of the result; the one of step in `dtype`,
        the one of scale as one part for each row, (N, R).
        """
        z, length = _sum_and_length(w, step, scale)
        inverse = 1 / (length + RENORMALISE_EPS)
        dot = torch.linalg.vecdot(grad, z)
        dnorms = dot * inverse
        radial = dot * norms * inverse**2 / length.clamp(min=torch.finfo(w.dtype).tiny)
        dz = (grad * (norms * inverse)[..., None]).addcmul_(z, radial[..., None], value=-1)
        dw = dz
        if learned is not None:
            dw = torch.where(learned[:, None, None], dz, grad)
            dz = dz * learned[:, None, None]
            dnorms = dnorms * learned[:, None]
        if scale is None:
            return dw, dz.to(dtype), dnorms, None
        dscale = torch.linalg.vecdot(dz, step.to(dz.dtype))
        return dw, (dz * scale[:, None, None]).to(dtype), dnorms, dscale


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b of batches of matrices, in `dtype`, without rounding the sums to the dtype of a and b."""
    if a.dtype == compute_dtype(a.dtype):
        return torch.bmm(a, b).to(dtype)
    if a.device.type in WIDE_OUTPUT:
        return torch.bmm(a, b, out_dtype=torch.float32).to(dtype)
    return torch.bmm(a.float(), b.float()).to(dtype)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, as `product` computes it."""
    if a.dtype == total.dtype:
        total.baddbmm_(a, b)
    elif a.device.type in WIDE_OUTPUT and total.dtype == torch.float32:
        torch.baddbmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.add_(product(a, b, total.dtype))


def _shared(rates: Tensor, share: Tensor | None) -> Tensor:
    return rates if share is None else rates * share[:, None, None]


def _sum_and_length(w: Tensor, step: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    step = step.unflatten(0, (-1, len(w)))  # (1 or B, N or H, R, C)
    z = w + step if scale is None else torch.addcmul(w, step, scale.view(*step.shape[:2], 1, 1))
    z = z.flatten(0, 1)
    return z, torch.linalg.vector_norm(z, dim=-1)


def for_each(w: Tensor, n: int) -> Tensor:
    """w (N, R, C), or repeated from (H, R, C)."""
    return w if len(w) == n else w.expand(n // len(w), *w.shape).flatten(0, 1)


def _wide(x: Tensor) -> Tensor:
    """x in the dtype of pointwise arithmetic, at least fp32."""
    return x.to(compute_dtype(x.dtype))
