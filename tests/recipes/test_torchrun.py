"""The train stage on several devices, as run.sh launches it: two torchrun processes on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from maya.recipes.cli import main
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from tests import tones

REPO = Path(__file__).resolve().parents[2]


def test_two_processes_train_validate_save_and_resume(tmp_path: Path) -> None:
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    tiny, data, run = ["--experiment", "tests.tiny"], tmp_path / "data", tmp_path / "run"
    assert main(["prepare", *tiny, "--corpus", str(tmp_path / "corpus"), "--out", str(data)]) == 0
    assert main(["tokenizer", *tiny, "--data", str(data), "--run-dir", str(run)]) == 0
    stage = ["train", *tiny, "--data", str(data), "--run-dir", str(run), "--cpu"]
    stage += ["--freeze-encoder-steps", "4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "maya.recipes.cli", *stage]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 process(es) on cpu" in done.stdout
    assert done.stdout.count("valid step 12") == 1  # one process speaks
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "valid"] == [6, 12]
    # The encoder is frozen at first. DDP wraps the model again when it starts to learn.
    encoder = {r["step"]: r["encoder"] for r in rows if r["kind"] == "phase" and "encoder" in r}
    assert encoder == {0: "frozen", 4: "warming up", 8: "learning"}
    training = load_checkpoint(step_checkpoints(run)[-1][1], training=True).training
    assert training is not None and len(training["rng"]) == 2
    assert not torch.equal(training["rng"][0]["torch"], training["rng"][1]["torch"])

    # One process resumes half-way with the remaining batches of the epoch.
    (run / "stage-train.json").unlink()
    step_checkpoints(run)[-1][1].unlink()
    assert main(stage) == 0
    training = load_checkpoint(step_checkpoints(run)[-1][1], training=True).training
    assert training is not None and len(training["rng"]) == 1 and training["position"][2] == 1
