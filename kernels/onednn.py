"""Linear layers on a CPU through oneDNN, without gradients.

torch computes fp32 products with MKL, which does not use AVX-512 on processors of AMD: 106 GFLOP/s against
245 of oneDNN on a core of an EPYC, for 1500 x 512 x 2048. Both compute in fp32. Nothing changes on other
devices, in other dtypes, with gradients, under autocast, while a compiler traces or a dispatch mode counts,
and where torch has no oneDNN.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Rows of a call. oneDNN prepares a product for each number of rows and each shape of a weight, and torch
# keeps up to 1024 of them, 0.6 to 2.5 MB each: with calls of any number of rows, memory grew by a gigabyte.
# Rows that fill no block go through MKL.
BLOCKS = (512, 256, 128, 64, 32, 16)


def available() -> bool:
    """Whether this torch has oneDNN with the operator used here, and `torch.backends.mkldnn` is on."""
    return bool(
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False) -> Tensor:
    """`F.linear` where oneDNN is `available`: x (..., K), weight (N, K), bias (N,) → (..., N). With `silu`,
    `F.silu` of it."""
    if weight.dtype == torch.float32 and suits(x):
        return in_blocks(lambda rows: _product(rows, weight, bias, silu), x)
    return _plain(x, weight, bias, silu)


class QuickLinear(nn.Linear):
    """`nn.Linear` that goes through oneDNN by itself, also outside of `linear_layers`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not available():
            return F.linear(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias)


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of rows, (n, K) → (n, N), over x (..., K) → (..., N), in blocks of which `linear` takes each
    at once. What `function` makes in between stays in the cache, and is not copied."""
    rows = x.reshape(-1, x.shape[-1])
    sizes = block_sizes(rows.shape[0])
    if len(sizes) == 1:
        y = function(rows)
        return y.view(*x.shape[:-1], y.shape[1])
    out, begin = None, 0
    for part in rows.split(sizes):
        y = function(part)
        if out is None:
            out = y.new_empty(rows.shape[0], y.shape[1])
        out[begin : begin + y.shape[0]] = y
        begin += y.shape[0]
    assert out is not None
    return out.view(*x.shape[:-1], out.shape[1])


def block_sizes(rows: int) -> list[int]:
    """The numbers of rows of each call: `BLOCKS`, and in the end what is less than the last of them."""
    sizes = []
    for block in BLOCKS:
        sizes += [block] * (rows // block)
        rows %= block
    return [*sizes, rows] if rows or not sizes else sizes


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    if rows.shape[0] not in BLOCKS:
        return _plain(rows, weight, bias, silu)
    activation = "swish" if silu else "none"
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
    return product


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    y = F.linear(x, weight, bias)
    return F.silu(y) if silu else y


def suits(x: Tensor) -> bool:
    """Whether products with x (..., K) go through oneDNN where it is `available`."""
    return (
        not torch.is_grad_enabled()
        and x.dtype == torch.float32
        and x.is_cpu
        and x.numel() >= BLOCKS[-1] * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # counters of operations know torch's operators
    )


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, by `linear` for an `nn.Linear`. Only where oneDNN is `available`."""
    if isinstance(layer, nn.Linear) and type(layer).forward in (nn.Linear.forward, QuickLinear.forward):
        return linear(x, layer.weight, layer.bias)
    output: Tensor = layer(x)
    return output


class _LinearThroughOneDNN(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.linear and not kwargs and type(args[1]) in (Tensor, torch.nn.Parameter):
            return linear(*args)
        return func(*args, **(kwargs or {}))


def linear_layers(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, `F.linear` and so `nn.Linear` is `linear`, if x is on a CPU and takes no gradient."""
    if x.is_cpu and not torch.is_grad_enabled() and available():
        return _LinearThroughOneDNN()
    return nullcontext()
