"""Training with the Zipformer recipe: a resume within an epoch is exact, on one and two processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maya.data.plan import Position
from maya.recipes.cli import main
from maya.train.checkpoints.checkpoint import load_checkpoint, step_path
from tests import tiny, tiny_zipformer_training

REPO = Path(__file__).resolve().parents[2]
STOP, STEPS = 10, 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    experiment = tiny_zipformer_training.experiment()
    return tiny.prepare_run(experiment, tmp_path_factory.mktemp("zipformer"), utterances=20)


def _train(data: Path, run: Path, processes: int) -> list[dict]:
    """Train through the command line. Returns the rows of metrics.jsonl."""
    stage = ["train", "--experiment", "tests.tiny_zipformer_training", "--data", str(data / "data")]
    stage += ["--run-dir", str(run), "--cpu", "--set", "train.threads=1"]
    if processes == 1:
        assert main(stage) == 0
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *launcher, "-m", "maya.recipes.cli", *stage]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_training_equals_uninterrupted_training(data: Path, tmp_path: Path, processes: int) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    shutil.copytree(data / "run", straight)
    rows = _train(data, straight, processes)
    shutil.copytree(data / "run", resumed)
    (resumed / "checkpoints").mkdir()
    shutil.copy(step_path(straight, STOP), step_path(resumed, STOP))
    position = load_checkpoint(step_path(resumed, STOP), training=True).training["position"]
    assert Position.of(position) != Position(position[0], 0)  # in the middle of an epoch
    _train(data, resumed, processes)

    a, b = (load_checkpoint(step_path(run, STEPS), training=True) for run in (straight, resumed))
    start = load_checkpoint(step_path(straight, STOP))
    for name, value in a.weights.items():
        assert torch.equal(value, b.weights[name]), name
    assert (
        sum(not torch.equal(v, start.weights[n]) for n, v in a.weights.items()) > 100
    )  # 20 steps did move them
    assert a.training is not None and b.training is not None
    for name, value in a.training["average"]["mean"].items():
        assert torch.equal(value, b.training["average"]["mean"][name]), name

    last = [r for r in rows if r["kind"] == "train"][-1]
    parts = {
        "transducer_loss",
        "transducer_simple_loss",
        "ctc_loss",
        "ctc_consistency_loss",
        "attention_loss",
    }
    assert parts <= last.keys() and all(last[p] > 0 for p in parts)
    assert last["lr"] < 0.03 and last["grad_norm"] > 0
