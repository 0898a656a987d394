"""What was found, as JSON that later runs add to, and as text and Markdown for people."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maya.kernels.bench.check import Check
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.table import (
    FormResult,
    Result,
    columns,
    headline,
    markdown_table,
    number,
    table_rows,
    text_table,
)

CHECK_COLUMNS = ("form", "lattice", "dtype", "output", "error", "plain torch's", "allowed")


@dataclass(slots=True)
class BarResult:
    """A bar, and the figure that was measured, None where something it needs was not run."""

    what: str
    limit: float
    unit: str
    measured: float | None

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not run"
        return "yes" if self.measured <= self.limit else "NO"

    @property
    def row(self) -> tuple[str, str, str, str]:
        measured = "-" if self.measured is None else f"{number(self.measured)} {self.unit}"
        return self.what, f"at most {self.limit:g} {self.unit}", measured, self.verdict


@dataclass(slots=True, kw_only=True)
class Run:
    """One operator in one case; without results if its check failed."""

    case: str
    op: str
    kind: str
    date: str
    command: str
    threads: int
    machine: dict[str, Any]
    checks: list[Check]
    results: list[Result] = field(default_factory=list)
    bars: list[BarResult] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Run":
        results = [
            Result(
                **{
                    **result,
                    "setting": Setting(**result["setting"]),
                    "forms": [FormResult(**form) for form in result["forms"]],
                }
            )
            for result in data["results"]
        ]
        checks = [Check(**check) for check in data["checks"]]
        return cls(
            **{**data, "checks": checks, "results": results, "bars": [BarResult(**b) for b in data["bars"]]}
        )


def read(path: Path) -> list[Run]:
    """The runs of a JSON file; none where there is no file."""
    if not path.exists():
        return []
    return [Run.from_json(run) for run in json.loads(path.read_text())["runs"]]


def add(runs: Iterable[Run], new: Run) -> list[Run]:
    """`runs` with `new` in the place of the one of its case and operator, or at the end."""
    found = list(runs)
    for i, run in enumerate(found):
        if (run.case, run.op) == (new.case, new.op):
            found[i] = new
            return found
    return [*found, new]


def write(runs: Sequence[Run], stem: Path, title: str) -> None:
    """`stem`.json and `stem`.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = {"runs": [asdict(run) for run in runs]}
    stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(runs, stem, title))


def check_rows(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [CHECK_COLUMNS]
    for c in checks:
        figures = (f"{x:.2e}" for x in (c.error, c.of_torch, c.allowed))
        rows.append((c.form, c.lattice, c.dtype, c.output, *figures))
    return rows


def text(run: Run) -> str:
    """For the terminal."""
    if run.failed:
        wrong = [f"  {check.text}" for check in run.failed]
        return "\n".join([f"{run.op}: WRONG, so no speed of it is shown:", *wrong])
    parts = [text_table(result) for result in run.results]
    if run.kind == "errors":
        parts.append(columns(check_rows(run.checks)))
    if run.bars:
        parts.append(columns([("bar", "", "measured", "reached"), *(bar.row for bar in run.bars)]))
    return "\n\n".join(parts)


def markdown(runs: Sequence[Run], stem: Path, title: str) -> str:
    parts = [
        f"# {title}",
        "How to read this: [README.md](README.md). All samples: " + f"[JSON]({stem.name}.json).",
    ]
    if stem.with_suffix(".png").exists():
        parts.append(f"![memory and time against vocabulary and labels]({stem.name}.png)")
    bars = [(run, bar) for run in runs for bar in run.bars]
    if bars:
        rows = [(run.case, run.op, *bar.row) for run, bar in bars]
        parts += ["## Bars", markdown_table([("case", "op", "what", "bar", "measured", "reached"), *rows])]
    for run in runs:
        parts += [f"## {run.case}: {run.op}", _origin(run)]
        if run.failed:
            parts.append("Wrong, so no speed is shown:")
            parts.append(markdown_table(check_rows(run.failed)))
            continue
        for result in run.results:
            parts += [f"{headline(result)}:", markdown_table(table_rows(result))]
        if run.kind == "errors":
            parts.append(markdown_table(check_rows(run.checks)))
    return "\n\n".join(parts) + "\n"


def _origin(run: Run) -> str:
    m = run.machine
    on_gpu = any(check.device != "cpu" for check in run.checks)
    changed = " with uncommitted changes" if m["uncommitted_changes"] else ""
    facts = [
        f"`{run.command}`, {run.date}, {(m['commit'] or 'no commit')[:10]}{changed}",
        m["gpu"] if on_gpu else f"{m['cpu']}, {m['cores']} cores, {run.threads} threads, load {m['load']}",
        f"torch {m['torch']}, torchaudio {m['torchaudio']}, triton {m['triton']}",
    ]
    return "; ".join(facts) + "."
