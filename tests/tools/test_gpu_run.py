"""tools/gpu_run.sh without a GPU: its dry run, a part that is cut off, and the pages made from its output."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.gpu_results import main

REPO = Path(__file__).resolve().parents[2]
pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="no timeout command")


def run(out: Path, *arguments: str, parts: str, limit: int = 560) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "OUT": str(out),
        "PARTS": parts,
        "LIMIT": str(limit),
        "PYTHON": sys.executable,
    }
    command = ["bash", str(REPO / "tools" / "gpu_run.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_dry_run_leaves_a_file_for_each_part(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", parts="environment lattices races")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"environment.txt", "lattices.txt", "races.txt", "bench.json"}
    assert "dry run: small, on the CPU" in done.stdout and "share of the peak" in done.stdout
    assert "lattices: done" in (tmp_path / "environment.txt").read_text()
    assert main([str(tmp_path), "--out", str(tmp_path / "pages")]) == 0
    page = next((tmp_path / "pages").glob("*.md")).read_text()
    assert "quick: lattice" in page and "quick: lact" in page


def test_a_part_that_is_cut_off_loses_nothing_of_the_others(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", parts="environment losses tune", limit=18)
    assert done.returncode == 1
    assert "environment: done" in done.stdout and "losses: cut off" in done.stdout
    assert "tune: not begun" in done.stdout or "tune: cut off" in done.stdout
    assert '"torch"' in (tmp_path / "environment.txt").read_text()
    assert "== losses" in (tmp_path / "losses.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(tmp_path, parts="environment")
    assert done.returncode == 1 and "nothing was run" in done.stderr and not any(tmp_path.iterdir())
    assert main([str(tmp_path)]) == 1 and "no bench.json" in capsys.readouterr().err
