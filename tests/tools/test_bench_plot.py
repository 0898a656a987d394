import json
from dataclasses import asdict
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.kernels.bench.measure import Setting
from maya.kernels.bench.report import BenchRun
from maya.kernels.bench.table import FormResult, Result
from tools.bench.plot import main, plot_bench, series

pytest.importorskip("matplotlib")


def run_over(vocabularies: tuple[int, ...], *, case: str = "a", labels: tuple[int, ...] = (5,)) -> BenchRun:
    """Results of two implementations. The second did not run at the largest vocabulary."""
    results = [
        Result(
            op="rnnt",
            setting=Setting(batch=2, frames=10, labels=u, hidden=8, vocab=v),
            forms=[
                FormResult(name="fused", both_ms=1.0 * v, both_bytes=1000 * v),
                FormResult(name="peer", both_ms=None if v == max(vocabularies) else 3.0 * v, both_bytes=None),
            ],
        )
        for v in vocabularies
        for u in labels
    ]
    return BenchRun(
        case=case, op="rnnt", kind="times", date="", command="", threads=1, machine={}, checks=[],
        results=results,
    )  # fmt: skip


def test_longest_series_is_used() -> None:
    results = series([run_over((10, 20, 30)), run_over((40, 10, 20, 30), case="b")], "vocab")
    assert [result.setting.vocab for result in results] == [10, 20, 30, 40]
    assert series([run_over((10, 20))], "vocab") == []
    assert series([run_over((10, 20, 30))], "labels") == []


def test_plots_and_titles(tmp_path: Path) -> None:
    titles = plot_bench([run_over((10, 20, 30), labels=(1, 2, 3))], tmp_path / "x.png")
    assert titles[0] == "rnnt: B=2 S=10 U=1 H=8 float32, uniform lattice, cpu" and len(titles) == 4
    assert titles[2].startswith("rnnt: B=2 S=10 H=8 V=10 ")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_missing_measurements_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    labels: list[str] = []
    monkeypatch.setattr(Axes, "plot", lambda self, *a, label, **b: labels.append(label))
    monkeypatch.setattr(Axes, "legend", lambda self, **b: None)
    plot_bench([run_over((10, 20, 30))], tmp_path / "x.png")
    assert labels == ["fused", "peer (not run at 10, 20, 30)", "fused", "peer (not run at 30)"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cpu.json"
    assert main([str(file)]) == 1
    assert "does not exist" in capsys.readouterr().err
    file.write_text(json.dumps({"runs": [asdict(run_over((10, 20)))]}))
    assert main([str(file)]) == 1
    assert "nothing to draw" in capsys.readouterr().err
    file.write_text(json.dumps({"runs": [asdict(run_over((10, 20, 30)))]}))
    assert main([str(file)]) == 0
    assert (tmp_path / "cpu.png").exists()


def test_no_series_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="nothing to draw: no 3 settings"):
        plot_bench([], tmp_path / "x.png")
