"""LaCT's parts in Triton: fused SwiGLU, the three products of a gradient, the pointwise second order, and the
sum with renormalised rows. Products without a fused epilogue go to cuBLAS, as in torch_op.py.

Forms and sizes of tensors are those of torch_op.py.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from maya.kernels.lact.jit import (
    renormalise_backward_kernel,
    renormalise_kernel,
    second_order_kernel,
    swiglu_kernel,
    terms_kernel,
)
from maya.kernels.lact.state import RENORMALISE_EPS
from maya.kernels.lact.torch_op import TorchOps

POINTWISE = (4, 256)  # frames and hidden channels of a program's step
RENORMALISE = (4, 256)  # rows and columns


@dataclass(frozen=True, slots=True)
class Tiles:
    """Of a product: frames, hidden channels, and channels of a step."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# By number of products and bytes of an element. Registers and shared memory of each are held to their limits
# by kernels/compile_gate.py; none has been timed. No autotuning, for every batch has another length.
TILES = {
    (2, 2): Tiles(128, 64, 32, 8, 3),
    (3, 2): Tiles(128, 64, 32, 8, 3),
    (2, 4): Tiles(64, 32, 16, 4, 2),
    (3, 4): Tiles(64, 32, 16, 4, 2),
}
SMALL_TILES = Tiles(16, 32, 16, 1, 1)  # for the interpreter, whose time goes by steps, on tests' small shapes


def tiles_for(products: int, x: Tensor) -> Tiles:
    """What to use for so many products of tensors like x."""
    return TILES[products, x.dtype.itemsize] if x.is_cuda else SMALL_TILES


class TritonOps(TorchOps):
    """On CUDA, or in Triton's interpreter. The state must be fp32."""

    def swiglu(self, x: Tensor, up: Tensor) -> Tensor:
        n, frames, channels, hidden, tiles = _sizes(x, up, 2)
        x, up = x.contiguous(), up.contiguous()
        out = x.new_empty(n, frames, hidden)
        swiglu_kernel[_grid(n, frames, hidden, tiles)](
            x, up, out, frames, hidden, channels,
            PRECISION=_precision(x), ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
        return out

    def terms(
        self, x: Tensor, y: Tensor, up: Tensor, down: Tensor, rates: Tensor | None, *, keep: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        n, frames, channels, hidden, tiles = _sizes(x, up, 3)
        x, y, up, down = (z.contiguous() for z in (x, y, up, down))
        halves, out = x.new_empty(n, frames, 2 * hidden), x.new_empty(n, frames, hidden)
        both, delta = (torch.empty_like(halves), torch.empty_like(out)) if keep else (None, None)
        terms_kernel[_grid(n, frames, hidden, tiles)](
            x, y, up, down, None if rates is None else rates.contiguous(), halves, out, both, delta,
            frames, hidden, channels,
            PRECISION=_precision(x), ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
        return halves, out, None if both is None or delta is None else (both, delta)

    def second_order(
        self, kept: tuple[Tensor, Tensor] | None, of_both: Tensor, of_hidden: Tensor, rates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert kept is not None
        rows, hidden = rates.shape[0] * rates.shape[1], of_hidden.shape[2]
        of_both, of_hidden = of_both.contiguous(), of_hidden.contiguous()
        of_rates = torch.empty_like(rates, memory_format=torch.contiguous_format)
        second_order_kernel[(triton.cdiv(rows, POINTWISE[0]),)](
            *kept, rates.contiguous(), of_both, of_hidden, of_rates, rows, hidden,
            ROWS=POINTWISE[0], COLUMNS=POINTWISE[1],
        )  # fmt: skip
        return of_both, of_hidden, of_rates

    def add_renormalise(
        self, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None, learned: Tensor | None
    ) -> Tensor:
        w, step, norms = w.contiguous(), step.contiguous(), norms.contiguous()
        n, rows, columns = w.shape
        out = torch.empty_like(w)
        renormalise_kernel[(triton.cdiv(rows, RENORMALISE[0]), n)](
            w, step, norms, scale, learned, out, rows, columns,
            EPS=RENORMALISE_EPS, ROWS=RENORMALISE[0], COLUMNS=RENORMALISE[1],
        )  # fmt: skip
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
        of_w, of_step, of_norms = torch.empty_like(w), torch.empty_like(w), torch.empty_like(norms)
        of_scale = None if scale is None else torch.empty_like(norms)
        renormalise_backward_kernel[(triton.cdiv(rows, RENORMALISE[0]), n)](
            grad, w, step, norms, scale, learned, of_w, of_step, of_norms, of_scale, rows, columns,
            EPS=RENORMALISE_EPS, ROWS=RENORMALISE[0], COLUMNS=RENORMALISE[1],
        )  # fmt: skip
        return of_w, of_step, of_norms, None if of_scale is None else of_scale.sum(1)


def _sizes(x: Tensor, up: Tensor, products: int) -> tuple[int, int, int, int, Tiles]:
    n, frames, channels = x.shape
    return n, frames, channels, up.shape[1] // 2, tiles_for(products, x)


def _grid(n: int, frames: int, hidden: int, tiles: Tiles) -> tuple[int, int]:
    return triton.cdiv(frames, tiles.rows) * triton.cdiv(hidden, tiles.columns), n


def _precision(x: Tensor) -> str:
    """fp32 products are rounded to TF32 only where torch's are."""
    tf32 = x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"
