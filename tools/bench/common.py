"""Helpers that the benchmarks share: command line, timing in turns, tables, facts about the machine."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

REPO = Path(__file__).resolve().parents[2]
PAGES = REPO / "docs" / "benchmarks"


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a benchmark."""
    return argparse.ArgumentParser(
        allow_abbrev=False, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def command_of(name: str, argv: Sequence[str] | None) -> str:
    """The command line that ran the benchmark `name`."""
    return " ".join([f"python -m tools.bench.{name}", *(sys.argv[1:] if argv is None else argv)])


def finish(result: dict[str, Any], name: str, command: str, out: Path | None) -> None:
    """Print a result with what it was measured with, and put it under its name into the JSON file `out`."""
    result["with"] = {
        "command": command,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    print(json.dumps(result, ensure_ascii=False))
    if out is not None:
        earlier = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps(earlier | {name: result}, indent=1) + "\n")


def clock_of(device: torch.device | str) -> Callable[[], float]:
    """Processor time for a CPU, which other programs disturb less than the wall clock; else wall time."""
    return time.process_time if torch.device(device).type == "cpu" else time.perf_counter


def in_turns(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    warm_up: int = 1,
    before: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each run in each round. All take turns in a round, so that a busy machine slows all alike.

    warm_up: first rounds, which are not counted. before: called with the name ahead of each run, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            if before is not None:
                before(name)
            began = clock()
            run()
            spent = clock() - began
            if number >= warm_up:
                seconds[name].append(spent)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def cores() -> str:
    return f"{os.cpu_count()} cores"


def machine() -> str:
    """Cores, load, system and Python."""
    return (
        f"{cores()}, load average {os.getloadavg()[0]:.1f} at the start, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def write_pages(stem: Path, result: Any, text: str) -> None:
    """`stem`.json and `stem`.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
