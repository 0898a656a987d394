"""Figures of a compiled kernel: what it takes of a processor, and what its machine code does."""

import re
import subprocess
import tempfile
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import triton

from maya.kernels.gate import ttgir
from maya.kernels.gate.pretence import Launch
from maya.kernels.sass import Code, Listing

BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A streaming multiprocessor (CUDA C++ Programming Guide, table of technical specifications).

    shared_kib: of all programs together; a program may have all of it but its own RESERVED_KIB.
    """

    shared_kib: int
    warps: int = 64
    programs: int = 32
    registers: int = 65536
    tensor_columns: int = 512  # of tensor memory, sm_100


PROCESSOR = {80: Processor(shared_kib=164), 90: Processor(shared_kib=228), 100: Processor(shared_kib=228)}
RESERVED_KIB = 1  # of shared memory, in each program
PARTITIONS = 4  # of a processor; a warp takes its registers from one of them
REGISTER_STEP = 256  # registers are given to a warp in multiples of it


@dataclass(slots=True, kw_only=True)
class Figures:
    """Counts are instructions of a warp.

    arguments: at run time. shared: bytes. ctas: programs that fit on a processor at the same time, 0 if one
      is too large.
    has_product: whether it has one, in any precision. tensor_ops: matrix instructions in the PTX.
    half_loads, half_stores: of single 16-bit numbers, from and to global memory; loop_half_loads: in a loop.
    wide_stores: of 16 bytes.
    step: instructions of the longest innermost loop, 0 without one.
    wait: in loops with a product, the least number of groups of copies that may be in flight after a wait for
      some of them; -1 without such a wait.
    waiting_loads: loads in loops with a product that do not run ahead of it. pipelined: whether all such
      loops have copies that run ahead.
    layouts: the most layouts in which a tensor is read and written in place; 0 if none is.
    """

    arguments: int
    registers: int
    spills: int
    shared: int
    ctas: int
    has_product: bool
    tensor_ops: int
    half_loads: int
    half_stores: int
    wide_stores: int
    loop_half_loads: int
    step: int
    wait: int
    waiting_loads: int
    pipelined: bool
    layouts: int

    @classmethod
    def names(cls) -> list[str]:
        return [x.name for x in fields(cls)]


class Binary:
    """The compiled code of a launch."""

    def __init__(self, launch: Launch, target: int) -> None:
        self.launch, self.target = launch, target
        self.metadata: Any = launch.compiled.metadata
        self.ptx: str = launch.compiled.asm["ptx"]
        self.ttgir: str = launch.compiled.asm["ttgir"]

    @cached_property
    def machine_code(self) -> tuple[int, Listing]:
        """Registers of a thread, and the instructions."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.launch.compiled.asm["cubin"])
            file.flush()
            usage = _run("cuobjdump", "--dump-resource-usage", file.name)
            # Without the analysis of data flow the text is the same, in two thirds of the time.
            listing = Listing.of(_run("nvdisasm", "--print-code", "--no-dataflow", file.name))
        registers = re.search(r"REG:(\d+)", usage)
        assert registers, usage
        return int(registers[1]), listing

    @property
    def warps(self) -> int:
        """Of a program; more than `num_warps` if warps are specialised."""
        threads = re.search(r"\.(?:req|max)ntid (\d+)", self.ptx)
        assert threads, "the PTX does not say how many threads a program has"
        return int(threads[1]) // 32

    def figures(self) -> Figures:
        registers, listing = self.machine_code
        whole, inner = listing.whole, [x for x in listing.loops if x.innermost]
        loops = ttgir.product_loops(self.ttgir)
        pending = [n for loop in loops for n in ttgir.waits(loop)]
        tensor_columns = int(getattr(self.metadata, "tmem_size", 0) or 0)
        return Figures(
            arguments=sum(kind != "constexpr" for kind in self.launch.compiled.src.signature.values()),
            registers=registers, spills=whole.spills, shared=int(self.metadata.shared),
            ctas=programs(self.target, registers, int(self.metadata.shared), self.warps, tensor_columns),
            has_product=ttgir.has_product(self.ttgir),
            tensor_ops=len(re.findall(r"\b(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)\b", self.ptx)),
            half_loads=whole.half_loads, half_stores=whole.half_stores, wide_stores=whole.wide_stores,
            loop_half_loads=max((x.half_loads for x in listing.loops), default=0),
            step=longest(inner), wait=min(pending, default=-1),
            waiting_loads=sum(ttgir.waiting_loads(loop) for loop in loops),
            pipelined=all(ttgir.is_pipelined(loop, self.metadata.num_stages) for loop in loops),
            layouts=max((len(x) for x in ttgir.in_place(self.ttgir).values()), default=0),
        )  # fmt: skip


def longest(loops: list[Code]) -> int:
    return max((x.instructions for x in loops), default=0)


def programs(target: int, registers: int, shared: int, warps: int, tensor_columns: int = 0) -> int:
    """Programs that fit on a processor at the same time; 0 if one is too large.

    registers: of a thread. shared: bytes.
    """
    processor = PROCESSOR[target]
    of_a_warp = -(-registers * 32 // REGISTER_STEP) * REGISTER_STEP
    by_registers = processor.registers // PARTITIONS // of_a_warp * PARTITIONS // warps
    by_shared = processor.shared_kib * 1024 // (shared + RESERVED_KIB * 1024)
    by_tensor_memory = processor.tensor_columns // tensor_columns if tensor_columns else processor.programs
    return min(by_registers, by_shared, by_tensor_memory, processor.warps // warps, processor.programs)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / tool, *arguments], check=True, capture_output=True, text=True).stdout
