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

POINTWISE = {"BT": 4, "BE": 256}  # frames and hidden channels of a program's step
RENORMALISE = {"BR": 4, "BC": 256}  # rows and columns
GATHER_ELEMENTS = 4096  # of a program, 32 for each thread

# By number of products and bytes of an element: frames, hidden channels, channels of a step, warps, stages,
# registers. kernels/compile_gate.py checks registers and shared memory; none has been timed. Nothing is tuned
# at run time, because each batch has another length.
TILES = {
    (2, 2): Tiles(128, 64, 32, 8, 3),
    (3, 2): Tiles(128, 64, 32, 8, 3),
    (2, 4): Tiles(64, 32, 16, 4, 2),
    (3, 4): Tiles(64, 32, 16, 4, 2, registers=168),
}
SMALL_TILES = Tiles(16, 32, 16, 1, 1)  # for the interpreter, whose time depends on the number of steps


def tiles_for(products: int, x: Tensor) -> Tiles:
    """The tiles of a kernel with this number of products of tensors like x."""
    return TILES[products, x.dtype.itemsize] if x.is_cuda else SMALL_TILES


class TritonOps(TorchOps):
    """On CUDA, or in Triton's interpreter. The state must be fp32."""

    gathers_ahead = True

    def gather(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, frames, heads = x.shape[:3]
        rows = x.flatten(3) if x.dim() > 3 else x[..., None]
        channels = rows.shape[3]
        out = x.new_empty(batch * heads, frames, *x.shape[3:])
        columns = triton.next_power_of_2(channels)
        block = {"BT": max(1, min(64, GATHER_ELEMENTS // columns)), "BC": columns}
        mask = None if mask is None else mask.contiguous()
        with launching_on(x):
            jit.gather_kernel[(triton.cdiv(frames, block["BT"]), batch * heads)](
                rows, mask, out, frames, heads, channels, *rows.stride(), **block
            )
        return out

    def swiglu(self, x: Tensor, up: Tensor) -> Tensor:
        (x,), apart = _rows_apart(x)
        up = up.contiguous()
        (frames, hidden, channels), grid, constants = _launch(x, up, 2)
        out = x.new_empty(x.shape[0], frames, hidden)
        with launching_on(x):
            jit.swiglu_kernel[grid](x, up, out, frames, apart, hidden, channels, **constants)
        return out

    def terms(
        self, x: Tensor, y: Tensor, up: Tensor, down: Tensor, rates: Tensor | None,
        share: Tensor | None = None, *, keep: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:  # fmt: skip
        (x, y, *given), apart = _rows_apart(x, y, *([] if rates is None else [rates]))
        up, down = up.contiguous(), down.contiguous()
        (frames, hidden, channels), grid, constants = _launch(x, up, 3)
        halves, out = (x.new_empty(x.shape[0], frames, e) for e in (2 * hidden, hidden))
        ac, delta = (torch.empty_like(halves), torch.empty_like(out)) if keep else (None, None)
        with launching_on(x):
            jit.terms_kernel[grid](
                x, y, up, down, given[0] if given else None, share, halves, out, ac, delta,
                frames, apart, hidden, channels, **constants,
            )  # fmt: skip
        return halves, out, None if ac is None or delta is None else (ac, delta)

    def second_order(
        self, saved: tuple[Tensor, Tensor], dhalves: Tensor, dhidden: Tensor, rates: Tensor,
        share: Tensor | None, drates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        n, frames, hidden = dhidden.shape
        (rates,), apart = _rows_apart(rates)
        dhalves, dhidden = dhalves.contiguous(), dhidden.contiguous()
        dac, ddelta = torch.empty_like(dhalves), torch.empty_like(dhidden)
        if drates is None:
            drates = torch.empty_strided(rates.shape, rates.stride(), dtype=rates.dtype, device=rates.device)
        assert drates.stride() == rates.stride()
        with launching_on(dac):
            jit.second_order_kernel[(triton.cdiv(frames, POINTWISE["BT"]), n)](
                *saved, rates, share, dhalves, dhidden, dac, ddelta, drates, frames, apart, hidden,
                **POINTWISE,
            )  # fmt: skip
        return dac, ddelta, drates

    def add_renormalise(
        self, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None, learned: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        w, step, norms = w.contiguous(), step.contiguous(), norms.contiguous()
        n, rows, columns = step.shape
        out = w.new_empty(step.shape)
        low = None if dtype == w.dtype else torch.empty_like(out, dtype=dtype)
        with launching_on(w):
            jit.renormalise_kernel[(triton.cdiv(rows, RENORMALISE["BR"]), n)](
                w, step, norms, scale, learned, out, low, w.shape[0], rows, columns, EPS=RENORMALISE_EPS,
                **RENORMALISE,
            )  # fmt: skip
        return out, out if low is None else low

    def add_renormalise_backward(
        self, grad: Tensor, w: Tensor, step: Tensor, norms: Tensor, scale: Tensor | None,
        learned: Tensor | None, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
        grad, w, step, norms = (x.contiguous() for x in (grad, w, step, norms))
        n, rows, columns = step.shape
        dw, dstep, dnorms = (
            w.new_empty(step.shape),
            step.new_empty(step.shape, dtype=dtype),
            torch.empty_like(norms),
        )
        dscale = None if scale is None else torch.empty_like(norms)
        with launching_on(w):
            jit.renormalise_backward_kernel[(triton.cdiv(rows, RENORMALISE["BR"]), n)](
                grad, w, step, norms, scale, learned, dw, dstep, dnorms, dscale, w.shape[0], rows,
                columns, EPS=RENORMALISE_EPS, **RENORMALISE,
            )  # fmt: skip
        return dw, dstep, dnorms, dscale


def _rows_apart(*tensors: Tensor) -> tuple[list[Tensor], int]:
    """Tensors (N, T, C) as the kernels read them, and the frames between two heads, the same in all.

    Spans of longer tensors pass as they are; others are copied.
    """
    apart = {x.stride(0) // x.shape[2] for x in tensors}
    fits = all(x.stride()[1:] == (x.shape[2], 1) and x.stride(0) % x.shape[2] == 0 for x in tensors)
    if fits and len(apart) == 1:
        return list(tensors), apart.pop()
    return [x.contiguous() for x in tensors], tensors[0].shape[1]


def _launch(
    x: Tensor, up: Tensor, products: int
) -> tuple[tuple[int, int, int], tuple[int, int], dict[str, Any]]:
    """Sizes (T, Dh, D), grid and constants of a kernel with products."""
    n, frames, channels = x.shape
    hidden, t = up.shape[1] // 2, tiles_for(products, x)
    grid = (triton.cdiv(frames, t.rows) * triton.cdiv(hidden, t.columns), n)
    return (frames, hidden, channels), grid, t.constants("BT", "BE", "BD", product_precision(x.dtype))
