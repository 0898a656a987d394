"""`maya train` with a memory limit: it is measured, training finishes, and a resume keeps the result."""

import json
from pathlib import Path

import pytest

from maya.recipes.cli import main
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from tests import tones

TINY = ["--experiment", "tests.tiny"]
LIMIT = 0.9  # GB; the process alone needs about 0.4


@pytest.mark.slow
def test_training_measures_memory_and_finishes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tones.make_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    places = ["--data", str(tmp_path / "data"), "--run-dir", str(run)]
    assert (
        main(["prepare", *TINY, "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "data")]) == 0
    )
    assert main(["tokenizer", *TINY, *places]) == 0
    auto = ["train", *TINY, *places, "--cpu", "--set", "data.plan.memory.limit=auto"]
    assert main(auto) != 0 and '"auto" takes what a GPU has free' in capsys.readouterr().err
    train = ["train", *TINY, *places, "--cpu", "--set", f"data.plan.memory.limit={LIMIT}"]
    assert main(train) == 0
    assert "train: measuring memory for up to" in capsys.readouterr().out
    used = json.loads((run / "memory.json").read_text())
    assert used["max_bytes"] == pytest.approx(0.9 * LIMIT * 1e9)
    (measured,) = (run / "memory").glob("memory-*.json")
    peaks = [s["peak"] for s in json.loads(measured.read_text())["samples"]]
    assert len(peaks) > 6 and any(p and p > 0.7 * LIMIT * 1e9 for p in peaks)  # up to the limit and beyond
    assert any(p is None or p > used["max_bytes"] for p in peaks)
    assert load_checkpoint(step_checkpoints(run)[-1][1]).step == 12
    assert main([*train, "--force"]) == 0
    assert "measuring" not in capsys.readouterr().out
