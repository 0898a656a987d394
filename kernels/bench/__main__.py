"""Check the operators, then measure them on named cases: `python -m maya.kernels.bench [OP ...]`.

Prints tables and writes DIR/NAME.json, .md and .png. Later runs are added to the same files.
"""

import argparse
import datetime
import importlib
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from maya.kernels.bench import cases, report
from maya.kernels.bench.cases import BenchCase, CaseFigures
from maya.kernels.bench.check import SMALL, WIDE, check
from maya.kernels.bench.machine import machine
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.table import Result, measure_memory, measure_times

OPS = ("rnnt", "tdt", "lattice", "ctc", "pruned_rnnt", "joint", "lact")
TOP = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if a check failed or there was nothing to run."""
    options = make_parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.name:14} {' '.join(case.settings):36} {case.why}" for case in cases.CASES))
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = ["quick"] if options.quick else options.case
    chosen = [c for c in cases.CASES if c.name in names] if names else default_cases(device)
    ops = options.ops or OPS
    missing = [case.name for case in chosen if case.device == "cuda" and device != "cuda"]
    if missing:
        print(f"bench: no CUDA device, so nothing was run of {', '.join(missing)}", file=sys.stderr)
        return 1
    runs = [(case, op) for case in chosen for op in ops if op in case.settings]
    if not runs:
        print(f"bench: no chosen case has {' or '.join(ops)}; see --list", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    on_gpu = any(case.device == "cuda" for case in chosen)
    stem = options.out / (options.name or (slug(torch.cuda.get_device_name()) if on_gpu else "cpu"))
    seconds = options.seconds if options.seconds is not None else 0.3 if options.quick else 10.0
    command = " ".join(["python -m maya.kernels.bench", *(sys.argv[1:] if arguments is None else arguments)])
    wrong = False
    for case, op in runs:
        print(f"\n== {case.name}: {op}", flush=True)
        try:
            run = start_case(case, op, threads=options.threads, command=command)
            for result in measured(case, run, options.forms, seconds):
                print(report.result_text(result), flush=True)
                write(run, stem)  # after each setting, so that a run that is killed keeps the earlier ones
        except Exception:  # the other operators are still measured
            traceback.print_exc()
            wrong = True
            continue
        print(report.ending_text(run), flush=True)
        wrong = wrong or bool(run.failed)
        write(run, stem)
    if not options.no_plot:
        draw(stem)
    print(f"\nwritten: {stem}.json, {stem}.md")
    return int(wrong)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.bench", description=__doc__
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"{', '.join(OPS)} (default: all of the case)")
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in cases.CASES], metavar="NAME",
        help="a case of --list; may be repeated (default: all for this device; an hour on two cores)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="run the case quick, less than a minute")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument(
        "--out", type=Path, default=Path("exp/bench"), metavar="DIR", help="folder (default: exp/bench)"
    )
    parser.add_argument("--name", help="name of the files (default: cpu, or the GPU's name)")
    parser.add_argument(
        "--seconds", type=float, metavar="S",
        help="measuring time per setting (default: 10, quick 0.3); at least 3 rounds are run",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch on the CPU"
    )
    parser.add_argument(
        "--forms", metavar="TEXT", action="append", default=[],
        help="measure only forms whose name contains this; may be repeated (default: those of the case)",
    )  # fmt: skip
    parser.add_argument("--no-plot", action="store_true", help="do not draw the figure")
    return parser


def default_cases(device: str) -> list[BenchCase]:
    return [case for case in cases.CASES if case.device == device and case.name != "quick"]


def slug(name: str) -> str:
    """ "NVIDIA H200" as part of a file name: "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def start_case(case: BenchCase, op: str, *, threads: int, command: str) -> report.BenchRun:
    """Checks `op`; nothing is measured yet."""
    module = importlib.import_module(f"maya.kernels.{op}.bench")
    checks = [c for s in check_settings(case, case.settings[op]) for c in check(op, module, s)]
    return report.BenchRun(
        case=case.name, op=op, kind=case.kind, command=command, threads=threads, machine=machine(),
        date=datetime.date.today().isoformat(), checks=checks,
    )  # fmt: skip


def measured(case: BenchCase, run: report.BenchRun, forms: Sequence[str], seconds: float) -> Iterator[Result]:
    """Measures a run that passed its checks, one setting after another, and adds each result to it, and the
    bars that can be told so far. forms: parts of the names of the forms to measure; all of the case if empty.
    """
    if run.failed:
        return
    module = importlib.import_module(f"maya.kernels.{run.op}.bench")
    settings = () if case.kind == "errors" else case.settings[run.op]
    run.bars = bars_of(case, run)
    for setting in settings:
        names = case.forms
        if forms:
            every = [form.name for form in module.forms(setting) if not names or form.name in names]
            names = tuple(name for name in every if any(text in name for text in forms))
        result = measure(case, run.op, module, setting, seconds, run.threads, names)
        run.results.append(result)
        run.bars = bars_of(case, run)
        yield result


def bars_of(case: BenchCase, run: report.BenchRun) -> list[report.BarResult]:
    """The bars of the case against the results so far."""
    figures = CaseFigures(run.checks, run.results)
    bars = case.bars.get(run.op, ())
    return [report.BarResult(bar.what, bar.limit, bar.unit, bar.measure(figures)) for bar in bars]


def measure(
    case: BenchCase, op: str, module: ModuleType, setting: Setting, seconds: float, threads: int,
    names: Sequence[str],
) -> Result:  # fmt: skip
    if case.kind == "memory":
        return measure_memory(op, module, setting, threads=threads, names=names)
    return measure_times(op, module, setting, threads=threads, seconds=seconds, names=names)


def check_settings(case: BenchCase, settings: tuple[Setting, ...]) -> list[Setting]:
    """Small settings with the dtypes and lattices of `settings`; on a GPU also one with full tiles."""
    if case.kind == "errors":
        return list(settings)
    shapes = (SMALL, WIDE) if case.device == "cuda" else (SMALL,)
    small = []
    for shape in shapes:
        for s in settings:
            if s.heads:
                shape = replace(shape, labels=0, vocab=0, heads=2)
            elif not s.vocab:
                shape = replace(shape, hidden=0, vocab=0)
            small.append(replace(shape, lattice=s.lattice, dtype=s.dtype, device=s.device))
    return list(dict.fromkeys(small))


def write(run: report.BenchRun, stem: Path) -> None:
    """Adds the run to the files."""
    runs = report.add(report.read(stem.with_suffix(".json")), run)
    report.write(runs, stem, title(run))


def draw(stem: Path) -> None:
    """Draws the figure if there are curves, and adds it to the Markdown."""
    runs = report.read(stem.with_suffix(".json"))
    if not any(len(run.results) > 2 for run in runs) or not (TOP / "tools" / "bench" / "plot.py").exists():
        return
    # A separate program, because kernels import torch and triton only, and matplotlib may be absent.
    results = str(stem.with_suffix(".json").resolve())
    subprocess.run([sys.executable, "-m", "tools.bench.plot", results], cwd=TOP)
    report.write(runs, stem, title(runs[-1]))


def title(run: report.BenchRun) -> str:
    return f"Kernels on {run.machine['gpu'] or run.machine['cpu']}"


if __name__ == "__main__":
    sys.exit(main())
