"""A run that is killed and restarted reads the same batches as an uninterrupted run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.data import plan_run

REPO = Path(__file__).resolve().parents[2]
AFTERWARDS = 200  # batches compared


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plan_run.prepare(tmp_path_factory.mktemp("corpus"))


def start(
    folder: Path, by: str, rank: int, ranks: int, workers: int, count: int, position: list
) -> subprocess.Popen[bytes]:
    options = {
        "by": by, "rank": rank, "ranks": ranks, "workers": workers, "count": count,
        "start": json.dumps(position),
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.data.plan_run", str(folder), *words]
    return subprocess.Popen(command, cwd=REPO, start_new_session=True)


def used(folder: Path, rank: int) -> list[list[str]]:
    path = folder / f"batches-{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_after(folder: Path, runs: list[subprocess.Popen[bytes]], count: int) -> None:
    """Send SIGKILL to all processes, workers too, once rank 0 has used this number of batches."""
    deadline = time.monotonic() + 120
    try:
        while len(used(folder, 0)) < count:
            assert time.monotonic() < deadline and runs[0].poll() is None
            time.sleep(0.002)
    finally:
        for run in runs:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


@pytest.mark.parametrize(
    ("by", "workers", "ranks", "killed_after"),
    [
        ("table", 2, 2, 17),
        pytest.param("table", 0, 1, 9, marks=pytest.mark.slow),
        pytest.param("table", 4, 2, 23, marks=pytest.mark.slow),
        pytest.param("loader", 2, 2, 17, marks=pytest.mark.slow),
        pytest.param("sampler", 2, 1, 40, marks=pytest.mark.slow),
        pytest.param("sampler", 4, 2, 5, marks=pytest.mark.slow),
        *(
            pytest.param("loader", workers, ranks, killed_after, marks=pytest.mark.slow)
            for workers in (0, 2, 4)
            for ranks in (1, 2)
            for killed_after in (4, 31, 64)
        ),
    ],
)
def test_a_killed_run_resumes_with_the_same_batches(
    corpus: Path, tmp_path: Path, by: str, workers: int, ranks: int, killed_after: int
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(corpus, folder)
    runs = [start(folder, by, rank, ranks, workers, 10**6, [0, 0]) for rank in range(ranks)]
    kill_after(folder, runs, killed_after)
    state = json.loads((folder / "state.json").read_text())
    again = [start(folder, by, rank, ranks, workers, AFTERWARDS, state) for rank in range(ranks)]
    assert [run.wait(timeout=180) for run in again] == [0] * ranks
    for rank in range(ranks):
        whole = plan_run.batches(corpus, by, rank, ranks, 0, (0, 0))
        for position, _ in whole:  # uninterrupted and without workers
            if json.loads(json.dumps(position)) == state:
                break
        assert used(folder, rank) == [ids for _, ids in islice(whole, AFTERWARDS)]
