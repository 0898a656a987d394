"""Loops, loads, stores and waits of a kernel's machine code, for budgets that need no GPU.

The text is that of `nvdisasm -c`, for example of a cubin that Triton has compiled for a GPU that is not
present. Counts are instructions of a warp: all 32 threads execute them together. An instruction that a
predicate skips still takes its slot, so it counts.

    code = Listing.of(text)
    code.main_loop.instructions      # a step of a lattice, or of the reduction of a product
    code.main_loop.half_loads        # loads of a single 16-bit number: the compiler lost contiguity or a mask
    code.main_loop.waits             # copies that may still run at each wait: 0 means that none is in flight
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P[T\d])\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^\s*([.$\w]+):\s*$")
_TARGET = re.compile(r"`\(([^)]+)\)")
_JUMPS = ("BRA", "CALL", "BRX", "JMP", "JMX", "RET", "EXIT")
# A loop that polls a barrier in shared memory: a check, a branch, and perhaps a pause.
_LONGEST_POLL = 4


@dataclass(frozen=True, slots=True)
class Instruction:
    """name: the operation with its modifiers, LDG.E.U16; operands: the rest; predicate: "P0", "!P0" or ""."""

    name: str
    operands: str = ""
    predicate: str = ""

    @property
    def operation(self) -> str:
        return self.name.split(".")[0]

    def has(self, *modifiers: str) -> bool:
        """Whether the operation has one of the modifiers: has("U16", "S16")."""
        return not set(modifiers).isdisjoint(self.name.split(".")[1:])


@dataclass(frozen=True, slots=True)
class Code:
    """A part of a kernel: all of it, or the body of a loop. depth: 0 for the kernel, 1 for an outer loop."""

    body: tuple[Instruction, ...]
    depth: int = 0
    innermost: bool = True

    @property
    def instructions(self) -> int:
        return len(self.body)

    def count(self, operation: str, *modifiers: str) -> int:
        """Instructions of an operation, all of them or those with one of the modifiers."""
        same = (x for x in self.body if x.operation == operation)
        return sum(1 for x in same if not modifiers or x.has(*modifiers))

    @property
    def half_loads(self) -> int:
        """Loads of a single 16-bit number from global memory, where a vector load takes eight."""
        return self.count("LDG", "U16", "S16")

    @property
    def half_stores(self) -> int:
        return self.count("STG", "U16", "S16")

    @property
    def wide_loads(self) -> int:
        """Loads of 16 bytes a thread from global memory, into registers."""
        return self.count("LDG", "128")

    @property
    def wide_stores(self) -> int:
        return self.count("STG", "128")

    @property
    def synchronous_loads(self) -> int:
        """Loads from global memory into registers, for which the warp waits; `prefetches` are not."""
        return self.count("LDG") + self.count("LD")

    @property
    def prefetches(self) -> int:
        """Copies from global to shared memory in the background."""
        return self.count("LDGSTS") + self.count("UTMALDG") + self.count("UBLKCP")

    @property
    def spills(self) -> int:
        """Loads and stores of registers that did not fit."""
        return self.count("LDL") + self.count("STL")

    @property
    def barriers(self) -> int:
        """Waits of all warps of a program for each other."""
        return self.count("BAR")

    @property
    def waits(self) -> tuple[int, ...]:
        """For each wait for groups of copies (cp.async): how many groups may still be in flight after it.

        Waits for bulk stores (UTMASTG) look the same; waits for other counters than SB0 do not count.
        """
        return self._pending("DEPBAR", "SB0")

    @property
    def product_waits(self) -> tuple[int, ...]:
        """For each wait for groups of Hopper's matrix products (wgmma): how many may still run after it."""
        return self._pending("WARPGROUP", "gsb0")

    def _pending(self, operation: str, counter: str) -> tuple[int, ...]:
        waits = (x.operands.split(",") for x in self.body if x.operation == operation and x.has("LE"))
        return tuple(int(wait[-1], 0) for wait in waits if wait[0] == counter)


@dataclass(frozen=True, slots=True)
class Listing:
    """A kernel and its loops, in the order of their first instructions."""

    whole: Code
    loops: tuple[Code, ...]

    @classmethod
    def of(cls, text: str) -> "Listing":
        """Raises ValueError for a text without instructions."""
        body, labels = _parsed(text)
        if not body:
            raise ValueError("no instructions: expected the text of `nvdisasm -c`")
        blocks, successors = _blocks(body, labels)
        loops = {}
        for head, members in _natural_loops(successors).items():
            code = tuple(x for i in sorted(members) for x in body[blocks[i][0] : blocks[i][1]])
            if not _is_poll(code):
                loops[head] = (members, code)
        return cls(Code(body), tuple(_nested(loops)))

    @property
    def main_loop(self) -> Code:
        """The longest loop that contains no other. Raises ValueError if there is no loop."""
        innermost = [x for x in self.loops if x.innermost]
        if not innermost:
            raise ValueError("the kernel has no loop")
        return max(innermost, key=lambda x: x.instructions)


def _parsed(text: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    """The instructions, and for each label the index of the instruction after it."""
    body: list[Instruction] = []
    labels = {}
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            body.append(Instruction(match[2], match[3], match[1] or ""))
        elif match := _LABEL.match(line):
            labels[match[1]] = len(body)
    return tuple(body), labels


def _blocks(
    body: Sequence[Instruction], labels: dict[str, int]
) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Stretches of code without a jump into or out of their middle, and the blocks that may follow each."""
    ends = [i + 1 for i, x in enumerate(body) if x.operation in _JUMPS]
    starts = sorted({0, *ends, *labels.values()} - {len(body)})
    blocks = list(zip(starts, [*starts[1:], len(body)], strict=True))
    number = {start: i for i, start in enumerate(starts)}
    successors = []
    for i, (_, end) in enumerate(blocks):
        last, after = body[end - 1], []
        target = _TARGET.search(last.operands) if last.operation in _JUMPS else None
        if target and labels.get(target[1], len(body)) < len(body):
            after.append(number[labels[target[1]]])
        # A subroutine returns; a jump with a condition may not be taken. The condition may be an operand.
        condition = last.predicate not in ("", "PT") or re.match(r"!?U?P[\dT]\b", last.operands)
        passes = last.operation not in _JUMPS or last.operation == "CALL" or condition
        if passes and i + 1 < len(blocks):
            after.append(i + 1)
        successors.append(after)
    return blocks, successors


def _natural_loops(successors: Sequence[Sequence[int]]) -> dict[int, set[int]]:
    """The blocks of each loop by its first block.

    A jump back to a block that every way to the jump passes closes a loop (Aho et al., Compilers, section
    9.6). A jump back alone does not: compilers move rare code behind the end of a kernel, and it jumps back.
    """
    count = len(successors)
    before: list[list[int]] = [[] for _ in range(count)]
    for i, after in enumerate(successors):
        for j in after:
            before[j].append(i)
    # Blocks that only an indirect jump reaches count as entries.
    everything = set(range(count))
    entries = {0} | {i for i in range(count) if not before[i]}
    dominators = [{i} if i in entries else everything for i in range(count)]
    changed = True
    while changed:
        changed = False
        for i in sorted(everything - entries):
            common = set.intersection(*(dominators[j] for j in before[i])) | {i}
            changed |= common != dominators[i]
            dominators[i] = common
    loops: dict[int, set[int]] = {}
    for i, after in enumerate(successors):
        for head in after:
            if head in dominators[i]:
                members, rest = loops.setdefault(head, {head}), [i]
                while rest:
                    block = rest.pop()
                    if block not in members:
                        members.add(block)
                        rest += before[block]
    return loops


def _is_poll(body: Sequence[Instruction]) -> bool:
    """Whether a loop is the trap after the end of a kernel, or waits for a barrier by asking again."""
    asks = any(x.operation in ("SYNCS", "NANOSLEEP") for x in body)
    return len(body) == 1 or asks and len(body) <= _LONGEST_POLL


def _nested(loops: dict[int, tuple[set[int], tuple[Instruction, ...]]]) -> list[Code]:
    """The loops with their depths; loops that share their first block are one."""
    nested = []
    for head in sorted(loops):
        members, body = loops[head]
        others = [x for other, (x, _) in loops.items() if other != head]
        depth = 1 + sum(members < x for x in others)
        nested.append(Code(body, depth, not any(x < members for x in others)))
    return nested
