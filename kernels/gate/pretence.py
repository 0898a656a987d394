"""A CUDA device that is not there: code for CUDA runs as far as its launches, which are compiled and kept.

Tensors on it are meta tensors, which have shapes and no memory, so production shapes cost nothing. They say
that they are on "cuda", and `device="cuda"` makes such tensors. Code therefore takes the branches that it
takes on a GPU. What would wait for the device (`item`, `tolist`, `nonzero`) raises.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

NAME = "pretended"  # of the device
CUDA = torch.device("cuda", 0)
REAL_DEVICE: Any = torch.Tensor.device  # a property in C
META = torch.device("meta")
ALLOCATION = 512  # bytes: PyTorch's allocator begins every tensor at a multiple of it
PROCESSORS = {80: 108, 90: 132, 100: 148}  # of an A100, an H100 or H200, a B200


class Launch:
    """A compiled kernel with the arguments of its first launch."""

    def __init__(self, kernel: Any, arguments: tuple, options: dict[str, Any], compiled: Any) -> None:
        self.name: str = kernel.fn.__name__
        names = kernel.arg_names
        self.arguments: dict[str, Any] = {**dict(zip(names, arguments, strict=False)), **options}
        self.compiled = compiled


class Pointer(MockTensor):
    """Stands for a tensor in the launch of a kernel: its dtype, and an address that is aligned as its own."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__(x.dtype, list(x.shape))
        self.offset = int(x.storage_offset()) * x.element_size() % ALLOCATION

    def data_ptr(self) -> int:
        return ALLOCATION + self.offset


class DriverWithoutDevice:
    """Triton's driver with a target for the compiler, and no device."""

    def __init__(self, target: int) -> None:
        self.target = GPUTarget("cuda", target, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


class OnMeta(TorchFunctionMode):
    """Replaces the device "cuda" by "meta" in the arguments of all functions of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func is torch.Tensor.pin_memory:  # it would need a device
            return args[0]
        named = {name: _on_meta(x) for name, x in (kwargs or {}).items()}
        if func == torch.baddbmm and "out_dtype" in named and args[1].is_meta:
            # torch 2.13 takes out_dtype for a factor there. The product has the shape and dtype of the sum.
            out: torch.Tensor | None = named.get("out")
            return torch.bmm(args[1], args[2], out_dtype=named["out_dtype"]) if out is None else out
        return func(*(_on_meta(x) for x in args), **named)


def backward(out: torch.Tensor) -> None:
    """The backward pass of `out`, on the pretended device; torch's own `backward` would leave the mode."""
    engine: Any = torch.autograd.Variable._execution_engine
    gradient = torch.ones_like(out)
    engine.run_backward((out,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _on_meta(x: Any) -> Any:
    is_cuda = isinstance(x, torch.device) and x.type == "cuda" or isinstance(x, str) and x[:4] == "cuda"
    return META if is_cuda else x


def _device(x: torch.Tensor) -> torch.device:
    return CUDA if x.is_meta and not _asked_by_torch() else REAL_DEVICE.__get__(x)


def _asked_by_torch() -> bool:
    """Whether the code that reads a property is torch's own, which computes shapes on meta tensors."""
    name: str = sys._getframe(2).f_globals.get("__name__", "")
    return name.partition(".")[0] == "torch"


@contextmanager
def pretended(target: int, only: str = "") -> Iterator[list[Launch]]:
    """Within it, there is a CUDA device of compute capability `target` (90 for 9.0). Yields the launches: one
    for each kernel that Triton compiles anew, in order. Only kernels whose names contain `only` are compiled.
    """
    launches: list[Launch] = []
    run, seen = JITFunction.run, set()

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if only not in self.fn.__name__:
            return None
        stand_ins = [Pointer(x) if isinstance(x, torch.Tensor) else x for x in args]
        compiled = run(self, *stand_ins, grid=grid, warmup=True, **options)
        if id(compiled) not in seen:
            seen.add(id(compiled))
            launches.append(Launch(self, args, options, compiled))
        return compiled

    properties = SimpleNamespace(multi_processor_count=PROCESSORS[target], name=NAME)
    changes = {
        (JITFunction, "run"): compile_only,
        (torch.Tensor, "is_cuda"): property(lambda x: x.is_meta and not _asked_by_torch()),
        (torch.Tensor, "device"): property(_device),
        (torch.cuda, "get_device_capability"): lambda device=None: divmod(target, 10),
        (torch.cuda, "get_device_properties"): lambda device=None: properties,
        (torch.cuda, "get_device_name"): lambda device=None: NAME,
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(driver, "_active", DriverWithoutDevice(target)))
        for (owner, name), value in changes.items():
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(OnMeta())
        yield launches
