"""Ctrl-C during training prints one line and saves the state. The same command resumes."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from maya.recipes.cli import main
from maya.train.checkpoints.checkpoint import step_checkpoints
from tests import tones

REPO = Path(__file__).resolve().parents[2]
LONG = ["--set", "train.steps=100000", "--set", "train.log_every=1", "--set", "train.valid_every=50000"]


def _interrupt(command: list[str], metrics: Path) -> tuple[int, str]:
    """Run a training and press Ctrl-C after some steps. Returns its exit status and output."""
    before = metrics.stat().st_size if metrics.exists() else 0
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.stat().st_size > before + 2000:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def test_ctrl_c_saves_and_the_same_command_resumes(tmp_path: Path) -> None:
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    tiny, data, run = ["--experiment", "tests.tiny"], tmp_path / "data", tmp_path / "run"
    assert main(["prepare", *tiny, "--corpus", str(tmp_path / "corpus"), "--out", str(data)]) == 0
    assert main(["tokenizer", *tiny, "--data", str(data), "--run-dir", str(run)]) == 0
    where = ["--data", str(data), "--run-dir", str(run), "--cpu"]
    command = [sys.executable, "-m", "maya.recipes.cli", "train", *tiny, *where, *LONG]
    code, out = _interrupt(command, run / "metrics.jsonl")
    assert code == 130, out
    stopped = re.search(r"stopped after step (\d+); run the same command again", out)
    assert stopped and "Traceback" not in out, out
    assert [step for step, _ in step_checkpoints(run)][-1] == int(stopped[1])
    code, out = _interrupt(command, run / "metrics.jsonl")
    assert code == 130 and f"continuing at step {stopped[1]} of 100000" in out, out
    assert step_checkpoints(run)[-1][0] > int(stopped[1])
    assert not list(run.rglob("*.partial"))
