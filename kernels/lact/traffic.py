"""Launches, bytes and peak memory of a LaCT step on a GPU, counted without one.

    python -m maya.kernels.lact.traffic

The operator runs on tensors without data (device "meta"), in the form that it has on CUDA. Each torch
operator that is no view counts as one launch. Its bytes are those of its inputs and outputs, each once. A
Triton launch counts the same way. Data that a kernel or a product reads again from a cache is not counted.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maya.kernels.lact import autograd, jit
from maya.kernels.lact.kernel import TritonOps
from maya.kernels.lact.plan import Span, chunk_causal, whole
from maya.kernels.lact.reference import Inputs
from maya.kernels.lact.state import Rule, initial, row_norms

ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")
OVERWRITES = tuple(f"aten::{x}" for x in ("copy_", "zero_", "fill_", "new_zeros", "new_full", "zeros_like"))
VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias", "aten::detach")  # beside those with a view's schema


@dataclass(slots=True)
class Traffic:
    """Launches and bytes of a part of a step, and the peak of the bytes allocated in it."""

    launches: int = 0
    bytes: int = 0
    peak: int = 0


class Counter(TorchDispatchMode):
    """Counts into `parts[part]`; set `part` before each part of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Traffic] = {}
        self.by_name: dict[str, Traffic] = {}
        self.part = ""
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # torch has this product for CUDA alone, without a form that computes only shapes.
        accumulates = func is torch.ops.aten.baddbmm.dtype_out
        out = kwargs["out"] if accumulates else func(*args, **kwargs)
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        name = func._schema.name
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not (views or name in ALLOCATIONS or name in VIEWS):
            given = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            # A tensor that is written in place is also read, except by what overwrites or only resembles it.
            self.count(name, [*(given[1:] if name in OVERWRITES else given), *results])
        if name == "aten::baddbmm" and not accumulates:  # CUDA's copies the summand first
            self.count("aten::copy_", [args[0], *results])
        self._allocated(results)
        return out

    def count(self, name: str, tensors: Sequence[Tensor]) -> None:
        """One launch that reads or writes each of the tensors once."""
        moved = sum(_bytes(x) for x in tensors)
        for table, key in ((self.parts, self.part), (self.by_name, f"{self.part} {name}")):
            entry = table.setdefault(key, Traffic())
            entry.launches += 1
            entry.bytes += moved

    def _allocated(self, tensors: Sequence[Tensor]) -> None:
        for x in tensors:
            storage = x.untyped_storage()
            self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: x for key, x in self._live.items() if not x[0].expired()}
        entry = self.parts.setdefault(self.part, Traffic())
        entry.peak = max(entry.peak, sum(size for _, size in self._live.values()))


def _bytes(x: Tensor) -> int:
    """Bytes of the elements that exist: an axis of stride 0 counts once."""
    elements = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        elements *= size if stride or size == 0 else 1
    return elements * x.element_size()


@contextmanager
def counting() -> Iterator[Counter]:
    """Counts operators, and Triton launches instead of starting them. Groups are those of a GPU."""
    counter = Counter()

    def launch(name: str) -> Any:
        def start(*args: Any, **options: Any) -> None:
            counter.count(name, [x for x in args if isinstance(x, Tensor)])

        return type("Kernel", (), {"__getitem__": lambda self, grid: start})()

    kernels = {name: kernel for name, kernel in vars(jit).items() if name.endswith("_kernel")}
    groups = dict(autograd.GROUP_ELEMENTS)
    try:
        for name in kernels:
            setattr(jit, name, launch(name))
        autograd.GROUP_ELEMENTS["meta"] = groups["cuda"]
        with counter:
            yield counter
    finally:
        autograd.GROUP_ELEMENTS.clear()
        autograd.GROUP_ELEMENTS.update(groups)
        for name, kernel in kernels.items():
            setattr(jit, name, kernel)


def step_traffic(
    plan: Sequence[Span], batch: int = 32, frames: int = 500, width: int = 768, heads: int = 4,
    *, masked: bool = True, **options: str,
) -> Counter:  # fmt: skip
    """Counts of "forward" and "backward" of one layer in bf16, Dh = D = width / heads."""
    size = width // heads

    def leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

    q, k, v = (leaf(batch, frames, heads, size) for _ in range(3))
    rates = leaf(batch, frames, heads, 3, dtype=torch.float32)
    step_scale = leaf(heads, dtype=torch.float32)
    w0, w1, w2 = (leaf(heads, size, size, dtype=torch.float32) for _ in range(3))
    leaves, grad = [q, k, v, rates, step_scale, w0, w1, w2], torch.empty_like(q)
    mask = torch.empty(batch, frames, dtype=torch.bool, device="meta") if masked else None
    with counting() as counter:
        counter.part = "forward"
        start, norms = initial(w0, w1, w2, batch), row_norms(initial(w0, w1, w2, 1))
        x = Inputs(q=q, k=k, v=v, rates=rates, mask=mask, gate=None, norms=norms, step_scale=step_scale)
        out, _ = autograd.lact_autograd(x, start, tuple(plan), Rule(**options), TritonOps())
        counter.part = "backward"
        torch.autograd.grad(out, leaves, grad)
    return counter


CASES: dict[str, tuple[Callable[[], list[Span]], dict[str, Any]]] = {
    "whole": (lambda: whole(500), {}),
    "whole, no mask": (lambda: whole(500), {"masked": False}),
    "8 chunks": (lambda: chunk_causal(500, 63), {}),
    "8 chunks, muon5": (lambda: chunk_causal(500, 63), {"orthogonalize": "muon5"}),
}


def main() -> None:
    print("| plan | part | launches | GB | peak GB |")
    print("|---|---|---|---|---|")
    for text, (plan, options) in CASES.items():
        counter = step_traffic(plan(), **options)
        for part, x in counter.parts.items():
            print(f"| {text} | {part} | {x.launches} | {x.bytes / 1e9:.2f} | {x.peak / 1e9:.2f} |")


if __name__ == "__main__":
    main()
