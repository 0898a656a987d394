"""LaCT's parts in Triton: fused SwiGLU, the three products of a gradient, the pointwise second order, and the
sum with renormalised rows. Products without a fused epilogue go to cuBLAS, as in torch_op.py, which also
defines the shapes.
"""

from typing import Any

import torch
import triton
from torch import Tensor

import maya.kernels.lact.jit as jit
from maya.kernels.lact.state import RENORMALISE_EPS
from maya.kernels.lact.torch_op import TorchOps
from maya.kernels.triton_common import Tiles, launching_on, product_precision

POINTWISE = {"BR": 4, "BE": 256}  # frames and hidden channels of a program's step
RENORMALISE = {"BR": 4, "BC": 256}  # rows and columns

# By number of products and bytes of an element: frames, hidden channels, channels of a step, warps, stages.
# kernels/compile_gate.py checks registers and shared memory; none has been timed. Nothing is tuned at run
# time, because each batch has another length.
TILES = {
    (2, 2): Tiles(128, 64, 32, 8, 3),
    (3, 2): Tiles(128, 64, 32, 8, 3),
    (2, 4): Tiles(64, 32, 16, 4, 2),
    (3, 4): Tiles(64, 32, 16, 4, 2),
}
SMALL_TILES = Tiles(16, 32, 16, 1, 1)  # for the interpreter, whose time depends on the number of steps


def tiles_for(products: int, x: Tensor) -> Tiles:
    """The tiles of a kernel with this number of products of tensors like x."""
    return TILES[products, x.dtype.itemsize] if x.is_cuda else SMALL_TILES


class TritonOps(TorchOps):
    """On CUDA, or in Triton's interpreter. The state must be fp32."""

    def swiglu(self, x: Tensor, up: Tensor) -> Tensor:
        x, up = x.contiguous(), up.contiguous()
        sizes, grid, constants = _launch(x, up, 2)
        out = x.new_empty(x.shape[0], sizes[0], sizes[1])
        with launching_on(x):
            jit.swiglu_kernel[grid](x, up, out, *sizes, **constants)
        return out

    def terms(
        self, x: Tensor, y: Tensor, up: Tensor, down: Tensor, rates: Tensor | None, *, keep: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        x, y, up, down = (z.contiguous() for z in (x, y, up, down))
        rates = None if rates is None else rates.contiguous()
        sizes, grid, constants = _launch(x, up, 3)
        halves, out = (x.new_empty(x.shape[0], sizes[0], e) for e in (2 * sizes[1], sizes[1]))
        ac, delta = (torch.empty_like(halves), torch.empty_like(out)) if keep else (None, None)
        with launching_on(x):
            jit.terms_kernel[grid](x, y, up, down, rates, halves, out, ac, delta, *sizes, **constants)
        return halves, out, None if ac is None or delta is None else (ac, delta)

    def second_order(
        self, saved: tuple[Tensor, Tensor] | None, dac: Tensor, dhidden: Tensor, rates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert saved is not None
        rows, hidden = rates.shape[0] * rates.shape[1], dhidden.shape[2]
        dac, dhidden = dac.contiguous(), dhidden.contiguous()
        drates = torch.empty_like(rates, memory_format=torch.contiguous_format)
        with launching_on(dac):
            jit.second_order_kernel[(triton.cdiv(rows, POINTWISE["BR"]),)](
                *saved, rates.contiguous(), dac, dhidden, drates, rows, hidden, **POINTWISE
            )
        return dac, dhidden, drates

    def add_renormalise(
        self, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None, learned: Tensor | None
    ) -> Tensor:
        w, step, norms = w.contiguous(), step.contiguous(), norms.contiguous()
        n, rows, columns = w.shape
        out = torch.empty_like(w)
        with launching_on(w):
            jit.renormalise_kernel[(triton.cdiv(rows, RENORMALISE["BR"]), n)](
                w, step, norms, scale, learned, out, rows, columns, EPS=RENORMALISE_EPS, **RENORMALISE
            )
        return out

    def add_renormalise_backward(
        self,
        grad: Tensor,
        w: Tensor,
        step: Tensor,
        norms: Tensor,
        scale: Tensor | None,
        learned: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        grad, w, step, norms = (x.contiguous() for x in (grad, w, step, norms))
        n, rows, columns = w.shape
        dw, dstep, dnorms = torch.empty_like(w), torch.empty_like(w), torch.empty_like(norms)
        dscale = None if scale is None else torch.empty_like(norms)
        with launching_on(w):
            jit.renormalise_backward_kernel[(triton.cdiv(rows, RENORMALISE["BR"]), n)](
                grad, w, step, norms, scale, learned, dw, dstep, dnorms, dscale, rows, columns,
                EPS=RENORMALISE_EPS, **RENORMALISE,
            )  # fmt: skip
        return dw, dstep, dnorms, None if dscale is None else dscale.sum(1)


def _launch(
    x: Tensor, up: Tensor, products: int
) -> tuple[tuple[int, int, int], tuple[int, int], dict[str, Any]]:
    """Sizes (T, Dh, D), grid and constants of a kernel with products."""
    n, frames, channels = x.shape
    hidden, t = up.shape[1] // 2, tiles_for(products, x)
    grid = (triton.cdiv(frames, t.rows) * triton.cdiv(hidden, t.columns), n)
    return (frames, hidden, channels), grid, t.constants("BT", "BE", "BD", product_precision(x.dtype))
