"""Several processes end like one process: with one sentence or one traceback, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maya.recipes import endings, launch
from maya.recipes.endings import Ending
from tests import tiny

REPO = Path(__file__).resolve().parents[2]


def ending(rank: int, text: str, *, status: int = 1, bug: bool = False, time: float = 1.0) -> Ending:
    return Ending(rank=rank, status=status, text=text, bug=bug, time=time)


@pytest.mark.parametrize(
    ("endings", "status", "printed"),
    [
        ([ending(0, "maya train: x"), ending(1, "maya train: x", time=0.5)], 1, "maya train: x\n"),
        (
            [ending(0, "Traceback ...", bug=True, time=0.1), ending(1, "maya train: y", time=0.2)],
            1,
            "[rank 1] maya train: y\n",
        ),
        (
            [ending(0, "Traceback a", bug=True, time=2), ending(1, "Traceback b", bug=True)],
            1,
            "Traceback b\n",
        ),
        (
            [ending(1, "stopped after step 3", status=130), ending(0, "stopped after step 3", status=130)],
            130,
            "stopped after step 3\n",
        ),
        ([ending(2, "late", time=9), ending(3, "early", time=8)], 1, "[rank 3] early\n"),
        ([], 1, "maya train: a process ended without a word\n"),
    ],
)
def test_one_error_is_printed(
    endings: list[Ending], status: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.conclude("train", endings) == status
    assert capsys.readouterr().err == printed


def test_killed_process_is_reported_before_waiting_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    statuses = {0: (1, 10), 1: (-9, 11), 2: (-15, 12)}
    failures = {r: SimpleNamespace(exitcode=e, pid=pid, timestamp=5) for r, (e, pid) in statuses.items()}
    waited = ending(0, "Traceback: connection closed by peer", bug=True)
    assert (
        launch.conclude(
            "train", [waited, *launch.killed("train", failures, {1: "in step 3 it computed losses"})]
        )
        == 137
    )
    said = capsys.readouterr().err
    assert said.startswith("[rank 1] maya train: process 11 was ended by SIGKILL: often")
    assert said.endswith("; in step 3 it computed losses\n")


def test_errors_are_passed_through_the_torchrun_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0").mkdir()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
    monkeypatch.setenv("RANK", "0")
    missing = ["info", str(tmp_path / "nowhere")]
    assert launch.work(missing) == 1 and not capsys.readouterr().err
    (read,) = endings.read_endings(tmp_path)
    assert read.rank == 0 and not read.bug and read.text.startswith("maya info: ")
    monkeypatch.setattr(launch.cli, "run", lambda _: [].pop())
    assert launch.work(missing) == 1
    (read,) = endings.read_endings(tmp_path)
    assert read.bug and "IndexError" in read.text
    (tmp_path / "0" / "error.json").write_text("{")
    assert endings.read_endings(tmp_path) == []


def test_options_are_checked_before_processes_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.main(["--standalone", "--nproc-per-node", "2", "train", "--data", "x"])
    assert capsys.readouterr().err.count("maya train: missing --experiment, --run-dir") == 1


def test_two_processes_print_one_sentence(tmp_path: Path) -> None:
    """Only one of the two ranks meets the recording that is missing."""
    exp = tiny.experiment()
    tiny.prepare_run(exp, tmp_path, utterances=6)
    (tmp_path / "corpus" / "en-000.wav").unlink()
    command = [sys.executable, "-m", "maya.recipes.launch", "--standalone", "--nproc-per-node", "2", "train"]
    command += ["--experiment", "tests.tiny", "--data", str(tmp_path / "data")]
    command += ["--run-dir", str(tmp_path / "run"), "--cpu", "--set", "train.threads=1"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "torch.distributed" not in done.stderr.split("maya train")[-1]
    last = done.stderr.strip().splitlines()[-1]
    assert "maya train: 1 utterances cannot be read ('en-000')" in last and last.startswith("[rank ")
    assert done.stderr.count("maya train:") == 1 and done.stdout.count("2 process(es)") == 1
    holder = json.loads((tmp_path / "run" / "train.lock").read_text())
    assert holder["pid"] > 0
