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
# Fewer rows than the least block go through MKL.
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


def convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """`layer(x)`. On one thread torch computes 1 x 1 kernels without oneDNN, in twice the time."""
    if layer.kernel_size != (1, 1) or not (suits(x) and available()):
        output: Tensor = layer(x)
        return output
    options: Any = (layer.padding, layer.stride, layer.dilation, layer.groups, "none", [], "")
    product: Tensor = torch.ops.mkldnn._convolution_pointwise(x, layer.weight, layer.bias, *options)
    return product


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of rows, (n, K) → (n, N), over x (..., K) → (..., N), in blocks of which `linear` takes each
    at once. What `function` makes in between stays in the cache, and is not copied."""
    rows = x.reshape(-1, x.shape[-1])
    blocks = blocks_of(rows.shape[0])
    if len(blocks) == 1:
        y = function(rows)
        return y.view(*x.shape[:-1], y.shape[1])
    out = None
    for begin, end in blocks:
        y = function(rows[begin:end])
        if out is None:
            out = y.new_empty(rows.shape[0], y.shape[1])
        out[begin:end] = y
    assert out is not None
    return out.view(*x.shape[:-1], out.shape[1])


def blocks_of(rows: int) -> list[tuple[int, int]]:
    """The first row and the end of each call, which has as many rows as one of `BLOCKS`.

    The last call may begin within the one before: to compute rows twice costs less than several small calls.
    For 192 x 768 one of 256 rows takes 0.9 ms, and 128 + 64 + 32 + 16 + 8 rows take 1.4 ms.
    """
    blocks, begin = [], 0
    while rows - begin >= BLOCKS[-1] or (begin and begin < rows):
        rest = rows - begin
        nearly_full = [b for b in BLOCKS if rest <= b <= rows and 4 * rest >= 3 * b]
        size = nearly_full[-1] if nearly_full else max((b for b in BLOCKS if b <= rest), default=BLOCKS[-1])
        begin = min(begin, rows - size)
        blocks.append((begin, begin + size))
        begin += size
    return blocks or [(0, rows)]


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
