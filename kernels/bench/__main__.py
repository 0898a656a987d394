"""`python -m maya.kernels.bench [OP ...]`: check the operators, then measure them on named cases.

Prints tables, and writes DIR/NAME.json (which later runs add to), .md and .png.
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
from maya.kernels.bench.cases import Case, Measured
from maya.kernels.bench.check import SMALL, WIDE, check
from maya.kernels.bench.measure import Setting, machine
from maya.kernels.bench.table import Result, measure_memory, measure_times

OPS = ("rnnt", "tdt", "lattice", "pruned_rnnt", "joint", "lact")
TOP = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if an operator's check failed or there was nothing to run."""
    options = parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.name:14} {' '.join(case.settings):36} {case.why}" for case in cases.CASES))
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = ["quick"] if options.quick else options.case
    chosen = [c for c in cases.CASES if c.name in names] if names else default_cases(device)
    ops = options.ops or OPS
    missing = [case.name for case in chosen if case.device == "cuda" and device != "cuda"]
    if missing:
        print(f"bench: no CUDA device here: nothing was run of {', '.join(missing)}", file=sys.stderr)
        return 1
    todo = [(case, op) for case in chosen for op in ops if op in case.settings]
    if not todo:
        print(f"bench: {' '.join(ops)} is in none of these cases; see --list", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    on_gpu = any(case.device == "cuda" for case in chosen)
    stem = options.out / (options.name or (slug(torch.cuda.get_device_name()) if on_gpu else "cpu"))
    seconds = options.seconds if options.seconds is not None else 0.3 if options.quick else 10.0
    command = " ".join(["python -m maya.kernels.bench", *(sys.argv[1:] if arguments is None else arguments)])
    wrong = False
    for case, op in todo:
        print(f"\n== {case.name}: {op}", flush=True)
        try:
            run = run_case(case, op, seconds=seconds, threads=options.threads, command=command)
        except Exception:  # the other operators are still worth an hour
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


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.bench", description=__doc__
    )
    found.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)} (default: all of the case)")
    found.add_argument(
        "--case", action="append", choices=[case.name for case in cases.CASES], metavar="NAME",
        help="may be repeated (default: all for this machine but quick; an hour on two cores)",
    )  # fmt: skip
    found.add_argument("--quick", action="store_true", help="the case quick, in less than a minute")
    found.add_argument("--list", action="store_true", help="list the cases and stop")
    found.add_argument("--out", type=Path, default=Path("exp/bench"), metavar="DIR")
    found.add_argument("--name", help="of the files (default: cpu, or that of the GPU)")
    found.add_argument(
        "--seconds", type=float, metavar="S",
        help="of measuring per setting (default 10, quick 0.3; at least 3 rounds whatever they take)",
    )  # fmt: skip
    found.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on the CPU")
    found.add_argument("--no-plot", action="store_true", help="draw nothing")
    return found


def default_cases(device: str) -> list[Case]:
    return [case for case in cases.CASES if case.device == device and case.name != "quick"]


def slug(name: str) -> str:
    """ "NVIDIA H200" as part of a file name: "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run_case(case: Case, op: str, *, seconds: float, threads: int, command: str) -> report.Run:
    """Checks `op`, and if it is right measures it on the case's settings."""
    module = importlib.import_module(f"maya.kernels.{op}.bench")
    settings = case.settings[op]
    checks = [c for s in check_settings(case, settings) for c in check(op, module, s)]
    run = report.Run(
        case=case.name, op=op, kind=case.kind, command=command, threads=threads, machine=machine(),
        date=datetime.date.today().isoformat(), checks=checks,
    )  # fmt: skip
    if run.failed:
        return run
    if case.kind != "errors":
        run.results = [measure(case, op, module, s, seconds=seconds, threads=threads) for s in settings]
    found = Measured(checks, run.results)
    run.bars = [
        report.BarResult(bar.what, bar.limit, bar.unit, bar.measure(found)) for bar in case.bars.get(op, ())
    ]
    return run


def measure(
    case: Case, op: str, module: ModuleType, setting: Setting, *, seconds: float, threads: int
) -> Result:
    if case.kind == "memory":
        return measure_memory(op, module, setting, threads=threads, names=case.forms)
    return measure_times(op, module, setting, threads=threads, seconds=seconds, names=case.forms)


def check_settings(case: Case, settings: tuple[Setting, ...]) -> list[Setting]:
    """Small ones of the dtypes and lattices of `settings`; on a GPU also one whose tiles are full."""
    if case.kind == "errors":
        return list(settings)
    shapes = (SMALL, WIDE) if case.device == "cuda" else (SMALL,)
    found = [
        replace(shape, lattice=s.lattice, dtype=s.dtype, device=s.device)
        if s.vocab
        else replace(shape, labels=0, vocab=0, heads=2, dtype=s.dtype, device=s.device)
        if s.heads
        else replace(shape, hidden=0, vocab=0, dtype=s.dtype, device=s.device)
        for shape in shapes
        for s in settings
    ]
    return list(dict.fromkeys(found))


def write(run: report.Run, stem: Path) -> None:
    """The files, with this run in them."""
    runs = report.add(report.read(stem.with_suffix(".json")), run)
    report.write(runs, stem, title(run))


def draw(stem: Path) -> None:
    """The picture, where there are curves to draw, and its place in the Markdown."""
    runs = report.read(stem.with_suffix(".json"))
    if not any(len(run.results) > 2 for run in runs) or not (TOP / "tools" / "plot_bench.py").exists():
        return
    # A program of its own, because kernels import torch and triton only, and matplotlib may be absent.
    results = str(stem.with_suffix(".json").resolve())
    subprocess.run([sys.executable, "-m", "tools.bench.plot", results], cwd=TOP)
    report.write(runs, stem, title(runs[-1]))


def title(run: report.Run) -> str:
    return f"Kernels on {run.machine['gpu'] or run.machine['cpu']}"


if __name__ == "__main__":
    sys.exit(main())
