"""An interval of 0 means never. The last step is still logged and saved."""

import json
from pathlib import Path

import pytest

from maya.recipes.cli import main
from maya.train.checkpoints.checkpoint import step_checkpoints
from maya.train.loop import due
from tests import tones

TINY = ["--experiment", "tests.tiny"]
INTERVALS = ("log_every", "valid_every", "samples_every", "save_every", "average_every")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, and a tokenizer in run/."""
    top = tmp_path_factory.mktemp("intervals")
    tones.make_corpus(top / "corpus", utterances=12)
    assert main(["prepare", *TINY, "--corpus", str(top / "corpus"), "--out", str(top / "data")]) == 0
    assert main(["tokenizer", *TINY, "--data", str(top / "data"), "--run-dir", str(top / "run")]) == 0
    return top


def stage(top: Path, command: str, *options: str) -> list[str]:
    return [command, *TINY, "--data", str(top / "data"), "--run-dir", str(top / "run"), *options]


def test_training_without_any_interval(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero = [part for name in INTERVALS for part in ("--set", f"train.{name}=0")]
    assert main(stage(prepared, "train", "--cpu", *zero, "--set", "train.steps=5")) == 0
    run = prepared / "run"
    assert [step for step, _ in step_checkpoints(run)] == [5]
    assert not (run / "best.pt").exists()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in rows if r["kind"] != "phase"] == [("train", 5)]
    capsys.readouterr()
    assert main(stage(prepared, "average", *zero, "--set", "train.steps=5")) == 0
    assert "last" in capsys.readouterr().out  # the only candidate: there is neither a best nor an average
    assert main(stage(prepared, "decode", *zero, "--set", "train.steps=5")) == 0
    assert main(["score", "--data", str(prepared / "data"), "--run-dir", str(run)]) == 0
    capsys.readouterr()
    assert main(stage(prepared, "average", *zero, "--set", "train.steps=5", "--avg", "3")) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_no_average_between_checkpoints(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With several checkpoints and no running average, the candidates are the best and the last weights."""
    run = ["--run-dir", str(prepared / "run2")]
    options = ["--set", "train.average_every=0", "--set", "train.save_every=2", "--set", "train.steps=6"]
    data = ["--data", str(prepared / "data")]
    assert main(["tokenizer", *TINY, *data, *run]) == 0
    assert main(["train", *TINY, *data, *run, "--cpu", *options]) == 0
    assert [step for step, _ in step_checkpoints(prepared / "run2")] == [2, 4, 6]
    assert main(["average", *TINY, *data, *run, *options]) == 0
    capsys.readouterr()
    assert main(["average", *TINY, *data, *run, *options, "--avg", "2", "--force"]) == 1
    assert "nothing was averaged" in capsys.readouterr().err


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4]), (3, [3]), (4, [4]), (9, [])])
def test_due_steps(every: int, steps: list[int]) -> None:
    assert [step for step in range(1, 5) if due(step, every)] == steps
