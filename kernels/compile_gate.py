"""Compiles every Triton kernel for GPUs that need not be present, and checks the results against limits.

    python -m maya.kernels.compile_gate [--quick] [--kernel NAME] [--targets 80 90] [--save FILE.json]
    make gate                                   # all, into docs/benchmarks/gate.md

The tests run the kernels in Triton's interpreter, which accepts code that the compiler refuses, and does not
count registers. Here the operators run in production shapes on a device that is only pretended. So each
kernel is compiled with the arguments, the specialisation and the options of a real launch.
kernels/gate/cases.py has the cases, kernels/gate/limits.py the limits. Prints a table, which
docs/benchmarks/gate.md explains; the exit status is 1 if a kernel misses a limit.
"""

import argparse
import re
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import triton

from maya.kernels.gate.cases import GateCase, cases
from maya.kernels.gate.figures import Binary
from maya.kernels.gate.limits import UNMET, Unmet, problems, unmet
from maya.kernels.gate.pretence import Launch, pretended
from maya.kernels.gate.table import COLUMNS, GateRow, load, page, save

TARGETS = (80, 90, 100)
QUICK_TARGETS = (80, 90)
KERNEL = re.compile(r"(?m)^@triton\.jit\b.*\n(?:@.*\n)*def (\w+_kernel)\(")


def kernels() -> set[str]:
    """Names of all kernels of the operators, from the source, so that the gate cannot miss one."""
    folder = Path(__file__).parent
    files = (x for x in folder.rglob("*.py") if x.relative_to(folder).parts[0] not in ("bench", "gate"))
    return {name for file in files for name in KERNEL.findall(file.read_text(encoding="utf-8"))}


def examine(case: GateCase, launches: Iterable[Launch], target: int) -> Iterator[GateRow]:
    """A row for each kernel that a case has compiled."""
    for launch, variant in named(list(launches)):
        figures = Binary(launch, target).figures()
        name = f"{case.name}{variant and f' ({variant})'}"
        excused = [
            (x, unmet(launch.name, name, target, x.kind))
            for x in problems(launch.name, case, target, figures)
        ]
        yield GateRow(launch.name, name, target, figures, excused)


def named(launches: list[Launch]) -> Iterator[tuple[Launch, str]]:
    """Each launch, with what tells it from the others of its kernel: the arguments that are None."""
    for launch in launches:
        others = [x for x in launches if x.name == launch.name]
        absent = {x for x, value in launch.arguments.items() if value is None}
        always = set.intersection(*({n for n, v in x.arguments.items() if v is None} for x in others))
        variant = ", ".join(sorted(absent - always))
        same = [x for x in others if {n for n, v in x.arguments.items() if v is None} == absent]
        number = f"{same.index(launch) + 1}" if len(same) > 1 else ""
        yield launch, " ".join(x for x in (variant and f"no {variant}", number) if x)


def run(targets: Iterable[int], *, quick: bool, only: str | None) -> Iterator[GateRow | str]:
    """Compiles the cases and examines the kernels, or those whose name contains `only`.

    Yields a row for each kernel, and a text for a case that raises, for example because it does not compile.
    """
    with tempfile.TemporaryDirectory() as cache, triton.knobs.cache.scope():
        triton.knobs.cache.dir = cache  # so that each run compiles anew
        for target in targets:
            with pretended(target, only or "") as launches:
                for case in cases():
                    if quick and not case.quick:
                        continue
                    first = len(launches)
                    try:
                        case.run()
                    except Exception as error:
                        place = traceback.extract_tb(error.__traceback__)[-1]
                        yield (
                            f"{case.name}, sm_{target}: {type(error).__name__}: {error} "
                            f"({place.filename}:{place.lineno})"
                        )
                    yield from examine(case, launches[first:], target)


def line(kernel: str, case: str, target: object, cells: Iterable[str], verdict: str = "") -> str:
    figures = " ".join(f"{x:>{len(title)}}" for x, title in zip(cells, COLUMNS.values(), strict=True))
    return f"{kernel.removesuffix('_kernel'):20} {case:48} {target:>3} {figures} {verdict}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if triton.knobs.runtime.interpret:
        print("compile_gate: TRITON_INTERPRET is set, so nothing would be compiled; unset it")
        return 2
    targets = options.targets or (QUICK_TARGETS if options.quick else TARGETS)
    rows, failures = [], []
    print(line("kernel", "case", "sm", COLUMNS.values()))
    for row in run(targets, quick=options.quick, only=options.kernel):
        if isinstance(row, str):
            failures.append(row)
            continue
        rows.append(row)
        print(line(row.kernel, row.case, row.target, row.cells(), row.verdict), flush=True)
    failures += [f"{row.key}: {p.text}" for row in rows for p, entry in row.problems if entry is None]
    complete = not options.kernel and not options.quick and targets == TARGETS
    excuses = _excuses(rows)
    if not options.kernel:
        missing = sorted(kernels() - {row.kernel for row in rows})
        failures += [f"{name} has no case: add one to kernels/gate/cases.py" for name in missing]
    if complete:
        stale = [x for x in UNMET if x.applies and x not in excuses]
        failures += [f"UNMET names {x.kernel}, {x.kind}, which is met now: remove it" for x in stale]
    if options.save:
        save(rows, options.save)
    if options.page:
        before = load(options.before) if options.before else {}
        options.page.write_text(page(rows, before, excuses), encoding="utf-8")
    for x in excuses:
        print(f"compile_gate: UNMET: {x.kernel} {x.case}: {x.kind}: {x.reason}")
    for text in failures:
        print(f"compile_gate: FAILED: {text}")
    print(f"compile_gate: {len(failures)} failed" if failures else "compile_gate: passed")
    return 1 if failures else 0


def _excuses(rows: Iterable[GateRow]) -> list[Unmet]:
    used = [entry for row in rows for _, entry in row.problems if entry]
    return [x for x in UNMET if x in used]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.compile_gate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--quick", action="store_true", help="one case per kind of product, for sm_80 and sm_90")
    add("--kernel", help="only kernels whose name contains this")
    add("--targets", type=int, nargs="+", choices=TARGETS, help="compute capabilities times 10")
    add("--save", type=Path, metavar="FILE", help="write the figures as JSON")
    add("--page", type=Path, metavar="FILE", help="write the table as Markdown")
    add("--before", type=Path, metavar="FILE", help="earlier figures, which --page shows beside the new ones")
    return parser


if __name__ == "__main__":
    sys.exit(main())
