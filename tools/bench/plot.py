"""Memory and time of the kernels against vocabulary and labels as a picture.

    python -m tools.bench.plot docs/benchmarks/cpu.json --out docs/benchmarks/cpu.png

The JSON is written by `python -m maya.kernels.bench`, which calls this program at its end. Needs matplotlib:
pip install 'maya-asr[plot]'.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.report import BenchRun, read
from maya.kernels.bench.table import Result
from maya.recipes.figure import figure_class

ACROSS = {"vocab": "vocabulary V", "labels": "labels U"}
UP = {"both_bytes": ("extra memory, MiB", 1 / (1 << 20)), "both_ms": ("forward + backward, ms", 1.0)}
FEWEST_POINTS = 3
SMALLEST_MIB = 1.0  # below this the resident set says nothing
MARKERS = "osD^v*"


def plot_bench(runs: Sequence[BenchRun], path: str | Path) -> list[str]:
    """Draw the longest series over each axis into `path`; returns titles. MayaError if there is none."""
    panels = [(x, y, series(runs, x)) for x in ACROSS for y in UP]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise MayaError(
            f"nothing to draw: no {FEWEST_POINTS} settings of an operator differ in V or in U alone"
        )
    rows = (len(panels) + 1) // 2
    figure = figure_class()(figsize=(12, 4.2 * rows), layout="constrained")
    titles = []
    for i, (x, y, results) in enumerate(panels):
        titles.append(title_of(results, x))
        axes = figure.add_subplot(rows, 2, i + 1)
        _draw(axes, results, x, y)
        axes.set_title(titles[-1], fontsize=9)
    figure.savefig(path, dpi=110)
    return titles


def series(runs: Sequence[BenchRun], across: str) -> list[Result]:
    """The most results of one operator whose settings differ in `across` alone, sorted; none if too few."""
    groups: dict[tuple[str, str, Setting], dict[int, Result]] = defaultdict(dict)
    for run in runs:
        for result in run.results:
            same: dict[str, Any] = {across: 0}
            key = (run.case, run.op, replace(result.setting, **same))
            groups[key][getattr(result.setting, across)] = result
    best = max(groups.values(), key=lambda group: (len(group), max(group)), default={})
    return [best[x] for x in sorted(best)] if len(best) >= FEWEST_POINTS else []


def title_of(results: Sequence[Result], across: str) -> str:
    s = results[0].setting
    fixed = {"B": s.batch, "S": s.frames, "U": s.labels, "H": s.hidden, "V": s.vocab}
    del fixed["V" if across == "vocab" else "U"]
    shape = " ".join(f"{k}={v}" for k, v in fixed.items())
    return f"{results[0].op}: {shape} {s.dtype}, {s.lattice} lattice, {s.device}"


def _draw(axes: Any, results: Sequence[Result], across: str, up: str) -> None:
    from matplotlib.ticker import LogLocator

    label, unit = UP[up]
    names = dict.fromkeys(form.name for result in results for form in result.forms)
    for name, marker in zip(names, MARKERS * len(names), strict=False):
        points, missing = [], []
        for result in results:
            x, form = getattr(result.setting, across), result.form(name)
            y = None if form is None else getattr(form, up)
            if y is None:
                missing.append(str(x))
            else:
                points.append((x, max(y * unit, SMALLEST_MIB) if up == "both_bytes" else y * unit))
        legend = f"{name} (not run at {', '.join(missing)})" if missing else name
        axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, markersize=4, label=legend)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", subs=[])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    ticks = [getattr(result.setting, across) for result in results]
    axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.set_xlabel(ACROSS[across])
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tools.bench.plot", description="Draw benchmark results."
    )
    parser.add_argument("results", type=Path, help="a JSON file of python -m maya.kernels.bench")
    parser.add_argument("--out", type=Path, help="the picture (default: beside the JSON)")
    options = parser.parse_args(arguments)
    out = options.out or options.results.with_suffix(".png")
    try:
        if not options.results.is_file():
            raise MayaError(f"{options.results} does not exist: give a JSON file of maya.kernels.bench")
        drawn = plot_bench(read(options.results), out)
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([f"{out}:", *dict.fromkeys(drawn)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
