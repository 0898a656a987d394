import json
import sys
from pathlib import Path
from typing import Any

import pytest

from maya.errors import MayaError
from maya.recipes.cli import main
from maya.recipes.figure import figure_class
from maya.recipes.plot_curves import BY_LANGUAGE, plot_curves

pytest.importorskip("matplotlib")

TRAIN = [{"kind": "train", "step": s, "loss": 9.0 / s, "lr": 1e-3, "grad_norm": 2.0} for s in range(1, 30)]
VALID = [{"kind": "valid", "step": 20, "loss": 1.0, "wer": 0.5, "cer": 0.2, "wer_hi": 0.4, "wer_ta": 0.6}]


def test_only_panels_with_numbers_are_drawn(tmp_path: Path) -> None:
    both = plot_curves({"a": TRAIN + VALID}, tmp_path / "both.png")
    assert both == ["loss", "dev error rate, %", "learning rate", "gradient norm", BY_LANGUAGE]
    assert plot_curves({"a": TRAIN}, tmp_path / "t.png") == ["loss", "learning rate", "gradient norm"]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MayaError, match=r"pip install 'maya-asr\[plot\]'"):
        figure_class()


def test_run_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="no curve to draw: new has no train"):
        plot_curves({"new": []}, tmp_path / "x.png")


def test_two_runs_have_different_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[str, str]] = []
    plot = Axes.plot

    def spy(self: Axes, x: Any, y: Any, style: str, **options: Any) -> Any:
        drawn.append((options["label"], style))
        return plot(self, x, y, style, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    plot_curves({"a": VALID, "b": VALID}, tmp_path / "x.png")
    assert ("a WER", "-") in drawn and ("b WER", "--") in drawn


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, TRAIN)))
    assert main(["plot", "curves", str(run), "--out", str(tmp_path / "c.png")]) == 0
    assert "gradient norm" in capsys.readouterr().out and (tmp_path / "c.png").is_file()
    assert main(["plot", "curves", str(run), "--out", str(tmp_path / "new" / "c.pdf")]) == 0
    assert (tmp_path / "new" / "c.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    for name in ("c.foo", "c"):
        assert main(["plot", "curves", str(run), "--out", str(tmp_path / name)]) == 1
        assert f"{name} has no suffix of a picture; expected one of " in capsys.readouterr().err
    assert main(["plot", "curves", str(tmp_path / "nowhere")]) == 1
    assert "does not exist" in capsys.readouterr().err
