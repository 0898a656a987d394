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

# Rows of a call. torch keeps what oneDNN prepared for each shape, up to 1024 shapes, and each holds a copy of
# the weights: with calls of any number of rows, memory grew by a gigabyte. Rows that fill no block go through
# MKL. For 3300 x 512 x 2048 the blocks take 8 % more time than one call.
BLOCKS = (512, 64)
MOST = 2**24  # elements of a weight, because of these copies


def available() -> bool:
    """Whether this torch has oneDNN with the operator used here, and `torch.backends.mkldnn` is on."""
    return bool(
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` where oneDNN is `available`: x (..., K), weight (N, K), bias (N,) → (..., N)."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) in BLOCKS:
        return _product(rows, weight, bias).view(*x.shape[:-1], -1)
    out, begin = x.new_empty(len(rows), weight.shape[0]), 0
    for block in BLOCKS:
        while len(rows) - begin >= block:
            out[begin : begin + block] = _product(rows[begin : begin + block], weight, bias)
            begin += block
    if begin < len(rows):
        out[begin:] = F.linear(rows[begin:], weight, bias)
    return out.view(*x.shape[:-1], -1)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == torch.float32 == weight.dtype
        and weight.numel() <= MOST
        and x.is_cpu
        and x.numel() >= BLOCKS[-1] * weight.shape[1]
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # counters of operations know torch's operators
    )


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, by `linear` for an `nn.Linear`. Only where oneDNN is `available`."""
    return linear(x, layer.weight, layer.bias) if type(layer) is nn.Linear else layer(x)


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
