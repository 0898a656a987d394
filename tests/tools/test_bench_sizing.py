"""The comparison of estimated and measured memory: its report matches its rows."""

import json
from pathlib import Path

from tools.bench.sizing import report


def _tabled(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_recorded_report_matches_recorded_rows(repo: Path) -> None:
    folder = repo / "docs/benchmarks"
    rows = json.loads((folder / "sizing.json").read_text())["rows"]
    assert _tabled(report(rows)) == _tabled((folder / "sizing.md").read_text())
    assert "With accumulation the paper is off by -25% to -14%" in report(rows)


def test_missed_limit_is_reported(repo: Path) -> None:
    rows = json.loads((repo / "docs/benchmarks/sizing.json").read_text())["rows"]
    assert "bar 15%: met" in report(rows)
    rows[0]["error"] = -0.2
    assert "bar 15%: NO" in report(rows)
