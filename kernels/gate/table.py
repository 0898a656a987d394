"""The gate's table as a page, beside the figures of an earlier run."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import triton

from maya.kernels.gate.figures import Figures
from maya.kernels.gate.limits import Shortfall, Unmet

COLUMNS = {
    "arguments": "args", "registers": "regs", "spills": "spills", "shared": "KiB", "ctas": "programs",
    "tensor_ops": "mma", "half_loads": "LDG.U16", "half_stores": "STG.U16", "wide_stores": "STG.128",
    "step": "step", "wait": "in flight", "waiting_loads": "waiting", "layouts": "layouts",
}  # fmt: skip


@dataclass(slots=True)
class GateRow:
    """A compiled kernel. problems: each with the entry that excuses it, or None."""

    kernel: str
    case: str
    target: int
    figures: Figures
    problems: list[tuple[Shortfall, Unmet | None]]

    @property
    def key(self) -> str:
        return f"{self.kernel} / {self.case} / {self.target}"

    @property
    def verdict(self) -> str:
        return "; ".join(("UNMET: " if entry else "") + p.text for p, entry in self.problems)

    @property
    def kinds(self) -> str:
        return ", ".join(f"**{p.kind}**" for p, _ in self.problems)

    def cells(self, before: dict[str, float] | None = None) -> list[str]:
        """The figures in the order of COLUMNS, as "earlier → now" where they have changed."""
        now, cells = asdict(self.figures), []
        for name in COLUMNS:
            text = _text(name, now[name])
            earlier = _text(name, before[name]) if before and name in before else text
            cells.append(text if earlier == text else f"{earlier} → {text}")
        return cells


def _text(name: str, value: float) -> str:
    if name in ("wait", "layouts", "step") and value <= 0:
        return "" if value < 0 or name != "wait" else "0"
    return f"{value / 1024:.1f}" if name == "shared" else str(value)


def save(rows: Iterable[GateRow], path: Path) -> None:
    """The figures of COLUMNS by `GateRow.key`, for a later run's `--before`."""
    figures = {"": list(COLUMNS)}
    for row in rows:
        figures[row.key] = [getattr(row.figures, name) for name in COLUMNS]
    lines = (f"{json.dumps(key)}: {json.dumps(x)}" for key, x in figures.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load(path: Path) -> dict[str, dict[str, float]]:
    """What `save` wrote: figures by name, by `GateRow.key`."""
    figures = json.loads(path.read_text(encoding="utf-8"))
    names = figures.pop("")
    return {key: dict(zip(names, values, strict=True)) for key, values in figures.items()}


def page(rows: list[GateRow], before: dict[str, dict[str, float]], unmet: Iterable[Unmet]) -> str:
    """docs/benchmarks/gate.md: a table for each target."""
    out = [_INTRODUCTION.format(version=triton.__version__)]
    out += [f"* `{x.kernel}`{x.case and f' ({x.case})'}, {x.kind}: {x.reason}" for x in unmet] or ["None."]
    for target in sorted({row.target for row in rows}):
        out += [
            "",
            f"## sm_{target}",
            "",
            "| kernel | case | " + " | ".join(COLUMNS.values()) + " | not met |",
        ]
        out += ["|---|---|" + "---:|" * len(COLUMNS) + "---|"]
        for row in rows:
            if row.target == target:
                cells = [f"`{row.kernel}`", row.case, *row.cells(before.get(row.key)), row.kinds]
                out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


_INTRODUCTION = """# What the compiler makes of the kernels

`make gate` compiles every Triton kernel as it is launched in production, for GPUs that need not be present.
It checks the results against the limits in kernels/gate/limits.py and writes this page. Nothing here has been
timed. Compiled with Triton {version}.

"a → b" is the figure at d9e7ebb, before the work on Hopper (docs/benchmarks/gate-before.json), and the figure
now. A case shows only kernels that no case above it has compiled.

| column | |
|---|---|
| args | arguments at run time |
| regs, spills | registers of a thread; loads and stores of registers that did not fit |
| KiB | shared memory of a program |
| programs | programs (CTAs) that fit on a processor (SM) at the same time |
| mma | matrix instructions |
| LDG.U16, STG.U16 | loads and stores of a single 16-bit number |
| STG.128 | stores of 16 bytes, eight 16-bit numbers |
| step | instructions of a warp in the longest innermost loop: a step of a lattice or of a product's sum |
| in flight | of loops with a product: groups of copies that may still run after a wait for some of them |
| waiting | loads in loops with a product for which the warp waits |
| layouts | of a tensor that is read and written in place: layouts of its loads and stores; two are a race |
| not met | limits that the kernel misses |

## Limits that are not met yet
"""
