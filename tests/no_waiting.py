"""Lists the calls of a step that would have the host wait for a GPU, on a machine without one.

    with no_waiting(model, batch.audio) as waits:
        step()
    assert waits == []

Tensors on the device are simulated: those given, all that are computed from them, and all that are made with
`device=` (but "cpu"). Reading one on the host waits: `.item()`, `bool()`, `.tolist()`, `.cpu()`, `nonzero`,
boolean indexing. So does a copy to the device that is not `non_blocking`, as in `torch.tensor(x, device=d)`.
Tensors of the host, such as lengths from the batch, may be read freely. Triton's interpreter is left out.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maya.kernels import host

REPO = Path(__file__).resolve().parents[1]
INTERPRETER = "triton/runtime/interpreter.py"
# Operators whose result has a size or value that the host reads.
READING = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "_unique", "_unique2"}
    | {"unique_dim", "unique_consecutive", "unique_dim_consecutive", "is_nonzero", "linalg_cholesky"}
)
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})


@contextmanager
def no_waiting(*on_device: Tensor | nn.Module, allowed: Iterable[str] = ()) -> Iterator[list[str]]:
    """Yields the list of waiting calls, "nonzero at kernels/joint/__init__.py:140", in their order.

    on_device: tensors, and modules with their parameters, gradients and buffers. allowed: parts of places
    whose calls are not listed, such as "maya/train/loop.py".
    """
    device = _Device(tuple(allowed))
    for x in on_device:
        for tensor in [x] if isinstance(x, Tensor) else [*x.parameters(), *x.buffers()]:
            device.add(tensor)
            if tensor.is_leaf and tensor.grad is not None:
                device.add(tensor.grad)

    def reads_freely(x: Tensor) -> bool:
        return x.is_cpu and not device.holds(x)

    with patch.object(host, "reads_freely", reads_freely), _Calls(device), _Operators(device):
        yield device.waits


class _Device:
    """The storages that are on the simulated device, kept alive so that no address comes twice."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        self.waits: list[str] = []
        self.storages: dict[int, torch.UntypedStorage] = {}

    def add(self, x: Tensor) -> None:
        if x.layout == torch.strided:
            storage = x.untyped_storage()
            self.storages[storage._cdata] = storage

    def holds(self, x: object) -> bool:
        return (
            isinstance(x, Tensor)
            and x.layout == torch.strided
            and x.untyped_storage()._cdata in self.storages
        )

    def record(self, name: str) -> None:
        place = _place()
        if place is not None and not any(part in place for part in self.allowed):
            self.waits.append(f"{name} at {place}")


class _Operators(TorchDispatchMode):
    """Finds operators that read, also those inside of other functions, and follows results."""

    def __init__(self, device: _Device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        held = [self.device.holds(x) for x in inputs]
        if any(held) and _waits(name, args, kwargs, held):
            self.device.record(name)
        out = func(*args, **kwargs)
        if any(held) and name != "set_":
            for x in tree_leaves(out):
                if isinstance(x, Tensor):
                    self.device.add(x)
        return out


def _waits(name: str, args: tuple, kwargs: dict, held: list[bool]) -> bool:
    if name in READING:
        return True
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name == "_ctc_loss":
        return isinstance(args[2], Tensor)  # torch reads lengths that are tensors
    if name == "copy_":
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return blocking and len(set(held)) > 1
    if name not in INDEXING:
        return False
    masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
    fills = name != "index" and len(args[1]) == 1 and args[2].numel() == 1  # torch then fills by the mask
    return bool(masks) and not fills


class _Calls(TorchFunctionMode):
    """Finds what a CPU tensor does without an operator: `.tolist()`, `.cpu()`, `.to(device)`, `device=`."""

    def __init__(self, device: _Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        held = bool(args) and self.device.holds(args[0])
        target = _target(name, args, kwargs)
        if _place() is None:
            return func(*args, **kwargs)
        if held and (name in ("tolist", "numpy", "__array__") or target == "host"):
            self.device.record(name)
        if held and target == "host":
            copied = args[0].detach().clone()
            del self.device.storages[copied.untyped_storage()._cdata]
            return func(copied, *args[1:], **kwargs)
        out = func(*args, **kwargs)
        if target != "device" or held:
            return out
        if name in ("to", "tensor", "as_tensor"):
            if not kwargs.get("non_blocking", False):
                self.device.record(f"{name} to the device")
            out = out.clone()
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self.device.add(x)
        return out


def _target(name: str, args: tuple, kwargs: dict) -> str | None:
    """ "host" or "device" if the call names a device. The string "cpu" is the host, an object the device."""
    if name == "cpu":
        return "host"
    devices = [kwargs["device"]] if kwargs.get("device") is not None else []
    if name == "to":
        devices += [x for x in args[1:] if isinstance(x, torch.device | str)]
    if not devices:
        return None
    return "host" if devices[0] == "cpu" and isinstance(devices[0], str) else "device"


def _place() -> str | None:
    """The innermost line of this repository on the stack, None inside Triton's interpreter.

    Torch is not of this repository, although .venv may lie in it.
    """
    frame, place = sys._getframe(2), None
    while frame is not None:
        path = frame.f_code.co_filename
        if path.endswith(INTERPRETER):
            return None
        ours = path.startswith(f"{REPO}/") and "/site-packages/" not in path
        if place is None and ours and path != __file__:
            place = f"{path.removeprefix(f'{REPO}/')}:{frame.f_lineno}"
        frame = frame.f_back
    return place or "outside of this repository"
