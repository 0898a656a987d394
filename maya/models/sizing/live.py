"""Bytes of memory, counted while operators run on the CPU, also as they would be on CUDA."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map


class Live(TorchDispatchMode):
    """Bytes of the blocks of memory that operators have made and that still exist: `now`, the highest
    (`peak`), and the largest block. Views of older tensors, such as inputs and parameters, do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        for x in tree_iter((args, kwargs)):
            if isinstance(x, Tensor):
                self._add(x.untyped_storage(), counts=False)
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self._add(x.untyped_storage())
        return out

    def _add(self, block: torch.UntypedStorage, *, counts: bool = True) -> None:
        name = block._cdata
        if name in self._seen:
            return
        size = block.nbytes() if counts else 0
        self._seen.add(name)
        self.now += size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        weakref.finalize(block, self._drop, name, size)

    def _drop(self, name: int, size: int) -> None:
        self._seen.discard(name)
        self.now -= size


@contextmanager
def as_on_cuda(module: nn.Module, *, bf16: bool) -> Iterator[None]:
    """Let `module` keep on the CPU what it would keep on CUDA: norms in fp32, attention as the
    memory-efficient kernel (q, k, v, bias, output, row sums), a byte for each number of a dropout mask.

    The numbers mean nothing.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout) and part.p > 0:
            part.forward = _ByteMask.apply  # type: ignore[method-assign]
    with _AsOnCuda(bf16):
        yield


class _AsOnCuda(TorchFunctionMode):
    """What autocast does not do: attention and norms."""

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self._low = torch.bfloat16 if bf16 else torch.float32

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        bias = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        if func is F.scaled_dot_product_attention and bias is not None:
            return _MemoryEfficient.apply(*(x.to(self._low) for x in (*args[:3], bias)))
        if func in (F.conv1d, F.conv2d):
            options = dict(zip(("stride", "padding", "dilation", "groups"), args[3:], strict=False)) | kwargs
            if options.get("groups", 1) == args[1].shape[0] > 1:
                return _Depthwise.apply(
                    func, options, *(x if x is None else x.to(self._low) for x in args[:3])
                )
        if func is F.layer_norm:  # which autocast on a CPU leaves alone
            args, kwargs = tree_map(_wide, (args, kwargs))
        return func(*args, **kwargs)


def _wide(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x


def backward(loss: Tensor, source: Tensor) -> None:
    """torch.autograd.grad(loss, source) with `as_on_cuda` also for what checkpointing recomputes."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,),
        (torch.ones_like(loss),),
        False,
        False,
        (source,),
        allow_unreachable=True,
        accumulate_grad=False,
    )


class _Depthwise(torch.autograd.Function):
    """Keeps and makes what a depthwise convolution does, and computes nothing: in bf16, oneDNN 3.12 never
    returns from one of at most 16 channels and 15 taps or more on a CPU with AVX-512."""

    @staticmethod
    def forward(ctx: Any, func: Callable, options: dict, x: Tensor, weight: Tensor, bias: Any = None) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.bias = None if bias is None else bias.shape
        return x.new_zeros(func(x.to("meta"), weight.to("meta"), **options).shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        bias = None if ctx.bias is None else weight.new_zeros(ctx.bias)
        return None, None, torch.zeros_like(x), torch.zeros_like(weight), bias


class _MemoryEfficient(torch.autograd.Function):
    """Keeps and makes what CUDA's memory-efficient attention does."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        batch, heads, size, width = q.shape
        out = q.new_zeros(batch, size, heads, width).transpose(1, 2)
        ctx.save_for_backward(q, k, v, bias, out, q.new_zeros(batch, heads, size, dtype=torch.float32))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(x) for x in ctx.saved_tensors[:4])


class _ByteMask(torch.autograd.Function):
    """Keeps what CUDA's dropout does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.new_empty(x.shape, dtype=torch.uint8))
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()
