"""What Triton's code for GPUs, the last stage before LLVM, says about loops with products and about tensors
that a kernel both reads and writes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Products, by Triton's lowering for sm_80 and fp32, sm_90, sm_100.
PRODUCTS = ("tt.dot", "tt.dot_scaled", "ttng.warp_group_dot", "ttng.tc_gen5_mma", "ttng.tc_gen5_mma_scaled")
LOOPS = ("scf.for", "scf.while")
READS = ("tt.load", "ttg.async_copy_global_to_local")
_OPERATION = re.compile(r"^(?:(%[\w$.-]+)(?::(\d+))? = )?([a-z_]+\.[\w.]+)\b(.*)$")
_VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
_ARGUMENT = re.compile(r"(%[\w$.-]+): !tt\.ptr")
_CARRIED = re.compile(r"(%[\w$.-]+) = (%[\w$.-]+(?:#\d+)?)")
_POINTERS = re.compile(r"tensor<[^<>]*!tt\.ptr<[^<>]*>, ((?:[^<>]|<[^<>]*>)+)>")


@dataclass(slots=True)
class Region:
    """An operation that holds code. operations: those directly in it, in order; inner: the regions in it."""

    name: str
    operations: list[tuple[str, str]] = field(default_factory=list)
    inner: list["Region"] = field(default_factory=list)

    def walk(self) -> Iterator["Region"]:
        yield self
        for region in self.inner:
            yield from region.walk()

    @property
    def has_product(self) -> bool:
        return any(name in PRODUCTS for name, _ in self.operations)


def product_loops(text: str) -> list[Region]:
    """The innermost loops with a product in them."""
    loops = [x for x in _parsed(text).walk() if x.name in LOOPS and x.has_product]
    return [x for x in loops if not any(y is not x and y in loops for y in x.walk())]


def is_pipelined(loop: Region, stages: int) -> bool:
    """Whether copies run ahead of the products: no load waits in place, and with three stages or more no wait
    is for all copies. With two stages, the copies for the next step begin after the wait.
    """
    pending = waits(loop)
    by_barrier = any(name == "ttng.wait_barrier" for name, _ in loop.operations)  # copies by TMA
    return not waiting_loads(loop) and (min(pending) >= min(1, stages - 2) if pending else by_barrier)


def has_product(text: str) -> bool:
    return any(region.has_product for region in _parsed(text).walk())


def waits(loop: Region) -> list[int]:
    """For each wait for copies to shared memory: how many groups of them may still be in flight after it."""
    texts = (rest for name, rest in loop.operations if name == "ttg.async_wait")
    return [int(match[1]) for text in texts if (match := re.search(r"num = (\d+)", text))]


def waiting_loads(loop: Region) -> int:
    """Loads of tensors into registers in the loop itself, which were not turned into copies ahead of time."""
    return sum(name == "tt.load" and "tensor<" in rest for name, rest in loop.operations)


def in_place(text: str) -> dict[str, set[str]]:
    """The layouts in which a kernel loads and stores each tensor that it both loads and stores, by argument.

    With one layout, each thread writes what it has read itself. With two, a thread may overwrite an element
    before another one has read it.
    """
    bases = {name: name for name in _ARGUMENT.findall(_signature(text))}
    read: dict[str, set[str]] = {}
    written: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = _OPERATION.match(line.strip())
        if not match:
            continue
        result, count, name, rest = match.groups()
        carried = _CARRIED.findall(rest.partition("iter_args(")[2]) if name in LOOPS else []
        for i, (inside, before) in enumerate(carried):
            if before in bases:
                bases[inside] = bases[before]
                bases[f"{result}#{i}" if count else result] = bases[before]
        operands = _VALUE.findall(rest)
        base = bases.get(operands[0]) if operands else None
        if base is None or carried:
            continue
        layout = match[1] if (match := _POINTERS.search(rest)) else "scalar"
        if name in READS:
            layout += ", through shared memory" if name != "tt.load" else ""
            read.setdefault(base, set()).add(layout)
        elif name == "tt.store":
            written.setdefault(base, set()).add(layout)
        elif result and "!tt.ptr" in rest:
            bases[result] = base
    return {name[1:]: read[name] | written[name] for name in read.keys() & written.keys()}


def _signature(text: str) -> str:
    return next((line for line in text.splitlines() if "tt.func public" in line), "")


def _parsed(text: str) -> Region:
    top = Region("module")
    stack = [top]
    for line in text.splitlines():
        code = re.sub(r"\s*loc\([^()]*(?:\([^()]*\))*[^()]*\)$", "", line.strip())
        if code.startswith("}") and len(stack) > 1:
            stack.pop()
        match = _OPERATION.match(code)
        if match:
            stack[-1].operations.append((match[3], match[4]))
        if code.endswith("{"):
            name = match[3] if match else code.partition(" ")[0]
            region = Region(name)
            stack[-1].inner.append(region)
            stack.append(region)
    return top
