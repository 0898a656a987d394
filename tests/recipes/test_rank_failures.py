"""A rank that is killed or stopped ends the launch in time, with its name; a restart continues exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from maya.files import read_json
from maya.train import watchdog
from maya.train.checkpoints.checkpoint import load_checkpoint, step_path
from maya.train.step import Clock
from maya.train.watchdog import LaunchHooks, Watchdog
from tests import tiny
from tests.pair import Pair

REPO = Path(__file__).resolve().parents[2]
STEPS = 300


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("ranks"), utterances=12)


class TwoProcesses:
    """Two processes that train for 300 short steps, with a checkpoint every 20."""

    def __init__(
        self, data: Path, folder: Path, options: Sequence[str] = (), sets: Sequence[str] = ()
    ) -> None:
        self.run, self.logs = folder / "run", folder / "logs"
        shutil.copytree(data / "run", self.run)
        command = [sys.executable, "-m", "maya.recipes.launch", "--standalone", "--nproc-per-node", "2"]
        command += ["--log-dir", str(self.logs), *options, "train", "--experiment", "tests.tiny", "--cpu"]
        command += ["--data", str(data / "data"), "--run-dir", str(self.run), "--set", "train.threads=1"]
        short = [f"train.steps={STEPS}", "train.save_every=20", "train.valid_every=0", "train.log_every=1"]
        for each in [*short, *sets]:
            command += ["--set", each]
        out = (folder / "out").open("w")
        self.process = subprocess.Popen(command, cwd=REPO, stdout=out, stderr=out)
        self.out = folder / "out"

    def pid(self, rank: int, step: int) -> int:
        """The process of a rank, after so many steps."""
        for _ in range(3000):
            metrics = self.run / "metrics.jsonl"
            done = metrics.read_text().count("\n") if metrics.is_file() else 0
            notes = [read_json(path) for path in self.logs.rglob("doing.json")]
            pids = [note["pid"] for note in notes if note.get("rank") == rank]
            if done >= step and pids:
                return pids[0]
            assert self.process.poll() is None, self.out.read_text()
            time.sleep(0.1)
        raise TimeoutError(self.out.read_text())

    def ended(self, seconds: float) -> tuple[int, str, float]:
        """(status, output, seconds until it ended)."""
        begun = time.monotonic()
        try:
            status = self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        return status, self.out.read_text(), time.monotonic() - begun


@pytest.mark.slow
def test_killed_rank_ends_the_others(data: Path, tmp_path: Path) -> None:
    launch = TwoProcesses(data, tmp_path)
    os.kill(launch.pid(1, step=5), signal.SIGKILL)
    status, text, seconds = launch.ended(60)
    assert status == 137 and seconds < 30
    last = text.strip().splitlines()[-1]
    assert last.startswith("[rank 1] maya train: process ") and "was ended by SIGKILL" in last
    assert "; in step " in last and "Traceback" not in text


@pytest.mark.slow
def test_stopped_rank_ends_the_others(data: Path, tmp_path: Path) -> None:
    launch = TwoProcesses(data, tmp_path, sets=["train.timeout_seconds=6"])
    os.kill(launch.pid(1, step=5), signal.SIGSTOP)
    status, text, seconds = launch.ended(90)
    assert status == 1 and seconds < 6 + watchdog.PATIENCE + 15
    last = text.strip().splitlines()[-1]
    assert "maya train: no progress for 6 s (train.timeout_seconds): rank 1 (process " in last
    assert "no longer answers" in last and "; in step " in last


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_restart_after_a_killed_rank_is_exact(data: Path, tmp_path: Path, parallel: str) -> None:
    runs = []
    for name in ("straight", "restarted"):
        folder = tmp_path / name
        folder.mkdir()
        launch = TwoProcesses(
            data, folder, ["--max-restarts", "1"], [f"train.parallel={parallel}", "train.steps=60"]
        )
        if name == "restarted":
            os.kill(launch.pid(1, step=31), signal.SIGKILL)
        status, text, _ = launch.ended(240)
        assert status == 0, text
        assert ("a process failed: restart 1 of 1" in text) is (name == "restarted")
        assert ("continuing at step" in text) is (name == "restarted")
        rows = [json.loads(line) for line in (launch.run / "metrics.jsonl").read_text().splitlines()]
        losses = [(row["step"], row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "train"]
        runs.append((losses, load_checkpoint(step_path(launch.run, 60), training=True)))
    (losses, a), (others, b) = runs
    assert losses == others and len(losses) == 60
    assert all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())


def _hang(rank: int, out: str, behind: int) -> None:
    """Rank 1 is `behind` activities behind rank 0; both wait."""
    torch.distributed.init_process_group("gloo")
    clock = Clock()
    for activity in ["data", "other", "forward"][: 3 - behind * rank]:
        clock.lap(activity)
    watchdog.PATIENCE = 6.0
    watch = Watchdog(clock, lambda: 7, 1.0, LaunchHooks())
    ends: list[str] = []
    watch._end = ends.append  # type: ignore[method-assign]
    with watch:
        for _ in range(600):
            time.sleep(0.1)
            if ends:
                break
    Path(out, str(rank)).write_text(ends[0])
    torch.distributed.barrier()


@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize("behind", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_the_rank_behind_is_named(behind: int, tmp_path: Path, pair: Pair) -> None:
    pair.run(_hang, str(tmp_path), behind)
    for rank in range(2):
        text = (tmp_path / str(rank)).read_text()
        if behind:
            assert text.startswith("rank 1 (process ") and " hangs for " in text
            assert text.endswith("in step 7 it computed losses")
        else:
            assert text.startswith("all ranks hang: in step 7 it computed gradients for ")


def test_slurm_script_describes_its_launch(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node-a\\nnode-b\\n'\n")
    scontrol.chmod(0o755)
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
    }
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [
        "egs/slurm.sh",
        "--dry-run",
        "train",
        "--experiment",
        "tests.tiny",
        "--data",
        "d",
        "--run-dir",
        "r",
    ]
    done = subprocess.run(
        command, cwd=REPO, env=os.environ | job | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "srun --kill-on-bad-exit=1 python -m maya.recipes.launch" in done.stdout
    assert "maya train on 2 node(s) with 8 process(es) each" in done.stdout
    assert "they meet at node-a:20007" in done.stdout and "at most 3" in done.stdout
