import json
from pathlib import Path

import pytest

from tools.bench import reading as bench_reading
from tools.bench.reading import main


def test_every_method_is_measured_and_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_reading, "IN_SHAR", 10)
    assert main(["--clips", "40", "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "reading.json").read_text())
    assert all(row["clips_per_second"] > 0 for row in result["rows"])
    assert len(result["bars"]) == 12 and {row["cache"] for row in result["rows"]} == {"cold", "warm"}
    assert len(result["steps"]) == 5 and all(taken > 0 for _, taken in result["steps"])
    page = (tmp_path / "out" / "reading.md").read_text()
    assert all(row["way"] in page for row in result["rows"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the corpus is gone"
