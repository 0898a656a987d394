"""What an update and an apply are made of, in torch operators; kernel.py has the same in Triton.

x, y: (N, T, D), N utterances times heads, T frames of a span, in the dtype of the products.
up: (N, 2 Dh, D), w0 over w2; down: (N, D, Dh), w1; hidden tensors: (N, T, Dh), and (N, T, 2 Dh) for w0's half
beside w2's. rates: (N, T, 3) in the dtype of the state.
"""

import torch
from torch import Tensor

from maya.kernels.lact.state import RENORMALISE_EPS


class TorchOps:
    """The parts that Triton makes otherwise."""

    def swiglu(self, x: Tensor, up: Tensor) -> Tensor:
        """silu(w0 x) * (w2 x), (N, T, Dh)."""
        a, c = _wide(torch.bmm(x, up.mT)).chunk(2, -1)
        return (torch.sigmoid(a).mul_(a).mul_(c)).to(x.dtype)

    def terms(
        self, x: Tensor, y: Tensor, up: Tensor, down: Tensor, rates: Tensor | None, *, keep: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """The hidden layer at x, and what <f(x), y> has for a gradient before it: with a = w0 x, c = w2 x and
        delta = w1^T y, both halves (delta c silu'(a), delta silu(a)), and silu(a) c, times their rates.

        keep: also (a, c) and delta, which `second_order` takes.
        """
        both, delta = torch.bmm(x, up.mT), torch.bmm(y, down)
        a, c = _wide(both).chunk(2, -1)
        wide = _wide(delta)
        s = torch.sigmoid(a)
        silu = a * s
        halves = torch.empty_like(both, dtype=a.dtype)
        first, second = halves.chunk(2, -1)
        torch.mul(silu, 1 - s, out=first).add_(s).mul_(c).mul_(wide)
        torch.mul(silu, wide, out=second)
        hidden = silu.mul_(c)
        if rates is not None:
            rate0, rate1, rate2 = rates.to(a.dtype).split(1, -1)
            first.mul_(rate0)
            second.mul_(rate2)
            hidden = hidden.mul_(rate1)
        return halves.to(x.dtype), hidden.to(x.dtype), (both, delta) if keep else None

    def second_order(
        self, kept: tuple[Tensor, Tensor] | None, of_both: Tensor, of_hidden: Tensor, rates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Through the pointwise part of `terms`: gradients of (a, c), of delta and of the rates (N, T, 3).

        kept: what `terms` kept. of_both (N, T, 2 Dh), of_hidden: gradients of its results. May write
        over `of_both` and `of_hidden`.
        """
        assert kept is not None
        dtype = kept[0].dtype
        a, c = _wide(kept[0]).chunk(2, -1)
        delta = _wide(kept[1])
        p0, p2 = _wide(of_both).chunk(2, -1)
        p1 = _wide(of_hidden)
        s = torch.sigmoid(a)
        silu = a * s
        slope = (1 - s).mul_(silu).add_(s)
        bent = (a - 2 * silu).add_(2).mul_(s).mul_(1 - s)  # silu''
        rate0, rate1, rate2 = rates.to(a.dtype).split(1, -1)
        with_c, with_slope = delta * c, delta * slope
        of_rates = torch.stack(
            [
                torch.linalg.vecdot(p0, with_slope * c),
                torch.linalg.vecdot(p1, silu * c),
                torch.linalg.vecdot(p2, delta * silu),
            ],
            -1,
        )
        e0, e1, e2 = p0 * rate0, p1 * rate1, p2 * rate2
        of_delta = (c * slope).mul_(e0).addcmul_(e2, silu)
        out = of_both if of_both.dtype == a.dtype else torch.empty_like(of_both, dtype=a.dtype)
        first, second = out.chunk(2, -1)
        torch.mul(e2, delta, out=first).addcmul_(e1, c).mul_(slope).addcmul_(e0, with_c.mul_(bent))
        torch.mul(e0, with_slope, out=second).addcmul_(e1, silu)
        return out.to(dtype), of_delta.to(dtype), of_rates.to(rates.dtype)

    def add_renormalise(
        self, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None, learned: Tensor | None
    ) -> Tensor:
        """Rows of w + scale * step, set to the norms; w itself where `learned` is false.

        w, step: (N, R, C); norms: (N, R); scale, learned: (N,) or None.
        """
        z, length = _sum_and_length(w, step, scale)
        z.mul_((norms / (length + RENORMALISE_EPS))[..., None])
        return z if learned is None else torch.where(learned[:, None, None], z, w)

    def add_renormalise_backward(
        self,
        grad: Tensor,
        w: Tensor,
        step: Tensor,
        norms: Tensor,
        scale: Tensor | None,
        learned: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of w, step, norms and scale from that of the result."""
        z, length = _sum_and_length(w, step, scale)
        inverse = 1 / (length + RENORMALISE_EPS)
        along = torch.linalg.vecdot(grad, z)
        of_norms = along * inverse
        shrink = along * norms * inverse**2 / length.clamp(min=torch.finfo(w.dtype).tiny)
        of_z = (grad * (norms * inverse)[..., None]).addcmul_(z, shrink[..., None], value=-1)
        of_w = of_z
        if learned is not None:
            of_w = torch.where(learned[:, None, None], of_z, grad)
            of_z = of_z * learned[:, None, None]
            of_norms = of_norms * learned[:, None]
        if scale is None:
            return of_w, of_z, of_norms, None
        of_scale = (of_z * step).sum((1, 2))
        return of_w, of_z * scale[:, None, None], of_norms, of_scale


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b of batches of matrices, in `dtype`, without rounding the sums to the dtype of a and b."""
    if a.dtype in (torch.float32, torch.float64):
        return torch.bmm(a, b).to(dtype)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32).to(dtype)
    return torch.bmm(a.float(), b.float()).to(dtype)


def _sum_and_length(w: Tensor, step: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    z = w + step if scale is None else torch.addcmul(w, step, scale[:, None, None])
    return z, torch.linalg.vector_norm(z, dim=-1)


def _wide(x: Tensor) -> Tensor:
    """Pointwise arithmetic is in fp32 at least."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
