"""Results as JSON, to which later runs are added, and as text and Markdown tables."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maya.kernels.bench.check import Check
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.table import FormResult, Result

CHECK_COLUMNS = ("form", "lattice", "dtype", "output", "error", "plain torch's", "allowed")
# The last two: forward / forward + backward.
FORM_COLUMNS = ("form", "fwd ms", "fwd+bwd ms", "x first", "of roofline", "extra MiB")
BAR_COLUMNS = ("bar", "", "measured", "reached")
MIB = 1 << 20


@dataclass(slots=True)
class BarResult:
    """A bar and its measured figure, None if a form that it needs was not run."""

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
class BenchRun:
    """One operator in one case; it has no results if its check failed."""

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
    def from_json(cls, data: dict[str, Any]) -> "BenchRun":
        results = [
            Result(
                **{**r, "setting": Setting(**r["setting"]), "forms": [FormResult(**f) for f in r["forms"]]}
            )
            for r in data["results"]
        ]
        checks, bars = [Check(**c) for c in data["checks"]], [BarResult(**b) for b in data["bars"]]
        return cls(**{**data, "checks": checks, "results": results, "bars": bars})


def read(path: Path) -> list[BenchRun]:
    """The runs of a JSON file, or none if there is no file."""
    if not path.exists():
        return []
    return [BenchRun.from_json(run) for run in json.loads(path.read_text())["runs"]]


def add(runs: Iterable[BenchRun], new: BenchRun) -> list[BenchRun]:
    """`runs` with `new` in place of the run of the same case and operator, or at the end."""
    by_key = {(run.case, run.op): run for run in runs}
    by_key[new.case, new.op] = new
    return list(by_key.values())


def write(runs: Sequence[BenchRun], stem: Path, title: str) -> None:
    """Writes `stem`.json and `stem`.md. A run that is killed meanwhile leaves the earlier JSON."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = {"runs": [asdict(run) for run in runs]}
    partial = stem.with_suffix(".json.partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    partial.replace(stem.with_suffix(".json"))
    stem.with_suffix(".md").write_text(markdown(runs, stem, title))


def check_rows(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [CHECK_COLUMNS]
    for c in checks:
        figures = (f"{x:.2e}" for x in (c.error, c.of_torch, c.allowed))
        rows.append((c.form, c.lattice, c.dtype, c.output, *figures))
    return rows


def text(run: BenchRun) -> str:
    """The run for the terminal."""
    return "\n\n".join([*map(result_text, run.results), ending_text(run)])


def result_text(result: Result) -> str:
    """The figures of one setting for the terminal."""
    return f"{headline(result)}\n{columns(form_rows(result))}\n"


def ending_text(run: BenchRun) -> str:
    """What comes after the figures: wrong outputs, errors, bars."""
    if run.failed:
        wrong = [f"  {check.text}" for check in run.failed]
        return "\n".join([f"{run.op}: WRONG, so it is not timed:", *wrong])
    parts: list[str] = []
    if run.kind == "errors":
        parts.append(columns(check_rows(run.checks)))
    if run.bars:
        parts.append(columns([BAR_COLUMNS, *(bar.row for bar in run.bars)]))
    return "\n\n".join(parts)


def markdown(runs: Sequence[BenchRun], stem: Path, title: str) -> str:
    parts = [
        f"# {title}",
        f"How to read this: [README.md](README.md). All samples: [JSON]({stem.name}.json).",
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
            parts.append("Wrong, so it was not timed:")
            parts.append(markdown_table(check_rows(run.failed)))
            continue
        for result in run.results:
            parts += [f"{headline(result)}:", markdown_table(form_rows(result))]
        if run.kind == "errors":
            parts.append(markdown_table(check_rows(run.checks)))
    return "\n\n".join(parts) + "\n"


def _origin(run: BenchRun) -> str:
    m = run.machine
    on_gpu = any(check.device != "cpu" for check in run.checks)
    changed = " with uncommitted changes" if m["uncommitted_changes"] else ""
    facts = [
        f"`{run.command}`, {run.date}, {(m['commit'] or 'no commit')[:10]}{changed}",
        m["gpu"] if on_gpu else f"{m['cpu']}, {m['cores']} cores, {run.threads} threads, load {m['load']}",
        f"torch {m['torch']}, torchaudio {m['torchaudio']}, triton {m['triton']}",
    ]
    return "; ".join(facts) + "."


def form_rows(result: Result) -> list[tuple[str, ...]]:
    """FORM_COLUMNS, then a row per form. A form that did not run has only its reason."""
    rows: list[tuple[str, ...]] = [FORM_COLUMNS]
    for f in result.forms:
        if f.why_not and f.both_ms is None:
            rows.append((f.name, f"not run: {f.why_not}", "", "", "", ""))
            continue
        peaks = [number(None if x is None else x / MIB, 0) for x in (f.forward_bytes, f.both_bytes)]
        times = (number(f.forward_ms), number(f.both_ms), number(f.ratio, 2))
        roofline = f"{percent(f.forward_roofline)} / {percent(f.both_roofline)}"
        rows.append((f.name, *times, roofline, f.why_not or " / ".join(peaks)))
    return rows


def headline(result: Result) -> str:
    rates = ""
    if result.gflops_per_second:
        rates = (
            f"; in the same turns {number(result.gflops_per_second, 0)} GFLOP/s in a plain product, "
            f"{number(result.gb_per_second)} GB/s in a plain copy"
        )
    return f"{result.op}: {result.setting.text}{rates}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of aligned columns, the first one to the left. Rows that end after the second column may
    be wider.
    """
    n = len(rows[0])
    widths = [max(len(row[i]) for row in rows if i == 0 or row[-1]) for i in range(n)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, n)]).rstrip()
        for row in rows
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    if digits is None:
        digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
