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

OPS = ("rnnt", "tdt", "lattice", "pruned_rnnt", "joint", "lact")
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
            run = run_case(case, op, seconds=seconds, threads=options.threads, command=command)
        except Exception:  # the other operators are still measured
            traceback.print_exc()
            wrong = True
            continue
        print(report.text(run), flush=True)
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
    parser.add_argument("--no-plot", action="store_true", help="do not draw the figure")
    return parser


def default_cases(device: str) -> list[BenchCase]:
    return [case for case in cases.CASES if case.device == device and case.name != "quick"]


def slug(name: str) -> str:
    """ "NVIDIA H200" as part of a file name: "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run_case(case: BenchCase, op: str, *, seconds: float, threads: int, command: str) -> report.BenchRun:
    """Checks `op`. If it passes, measures it on the case's settings."""
    module = importlib.import_module(f"maya.kernels.{op}.bench")
    settings = case.settings[op]
    checks = [c for s in check_settings(case, settings) for c in check(op, module, s)]
    run = report.BenchRun(
        case=case.name, op=op, kind=case.kind, command=command, threads=threads, machine=machine(),
        date=datetime.date.today().isoformat(), checks=checks,
    )  # fmt: skip
    if run.failed:
        return run
    if case.kind != "errors":
        run.results = [measure(case, op, module, s, seconds, threads) for s in settings]
    measured = CaseFigures(checks, run.results)
    run.bars = [
        report.BarResult(bar.what, bar.limit, bar.unit, bar.measure(measured))
        for bar in case.bars.get(op, ())
    ]
    return run


def measure(
    case: BenchCase, op: str, module: ModuleType, setting: Setting, seconds: float, threads: int
) -> Result:
    if case.kind == "memory":
        return measure_memory(op, module, setting, threads=threads, names=case.forms)
    return measure_times(op, module, setting, threads=threads, seconds=seconds, names=case.forms)


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
    if not any(len(run.results) > 2 for run in runs) or not (TOP / "tools" / "plot_bench.py").exists():
        return
    # A separate program, because kernels import torch and triton only, and matplotlib may be absent.
    results = str(stem.with_suffix(".json").resolve())
    subprocess.run([sys.executable, "-m", "tools.bench.plot", results], cwd=TOP)
    report.write(runs, stem, title(runs[-1]))


def title(run: report.BenchRun) -> str:
    return f"Kernels on {run.machine['gpu'] or run.machine['cpu']}"


if __name__ == "__main__":
    sys.exit(main())
