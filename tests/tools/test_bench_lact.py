"""The benchmark of LaCT runs and writes a table of its measurements."""

import json

import pytest

from maya.errors import MayaError
from tools.bench import lact as bench_lact


def test_small_run_writes_results_and_page(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_lact, "plot", lambda result, path: path.write_bytes(b"png"))
    out = tmp_path / "lact"
    small = ["--size", "tiny", "--lengths", "1", "2", "--rounds", "2", "--out", str(out)]
    chosen = ["LaCT, one step", "FastConformer, window"]
    assert bench_lact.main([*small, "--encoders", *chosen]) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    assert [row["audio"] for row in result["rows"]] == [1, 1, 2, 2]
    assert all(row["seconds"] > 0 and row["bytes"] >= 0 for row in result["rows"])
    assert result["rows"][2]["frames"] == 25 and list(result["parameters"]) == chosen
    page = out.with_suffix(".md").read_text()
    assert (
        "| 2 s | " in page and "| LaCT, one step | 0.97 M |" in page and "python -m tools.bench.lact" in page
    )
    assert out.with_suffix(".png").exists()


def test_encoders_have_similar_size():
    for size in ("tiny", "small"):
        counts = [bench_lact.parameters(size, name) for name in bench_lact.ENCODERS]
        assert max(counts) < 1.1 * min(counts), size


def test_plot_has_all_encoders(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"encoder": name, "audio": audio, "frames": 1, "seconds": audio, "bytes": audio * 1e6}
        for name in bench_lact.ENCODERS
        for audio in (10, 30)
    ]
    bench_lact.plot({"rows": rows, "parameters": dict.fromkeys(bench_lact.ENCODERS, 1)}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_failed_measurement_is_reported(monkeypatch):
    monkeypatch.setattr(bench_lact, "forked", lambda work: (None, -9))
    with pytest.raises(MayaError, match=r"LaCT, one step: the measurement of 1 s ended with status -9"):
        bench_lact.measure_all("tiny", [1.0], 1, ["LaCT, one step"])
