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


def run(out: Path, *arguments: str, parts: str, **limits: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(out), "PARTS": parts, "PYTHON": sys.executable} | limits
    command = ["bash", str(REPO / "tools" / "gpu_run.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_dry_run_leaves_a_file_for_each_part(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", parts="environment races")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"environment.txt", "correctness.txt"}
    assert "dry run: small, on the CPU" in done.stdout and "racecheck of the lattices" in done.stdout
    assert "races: done" in (tmp_path / "environment.txt").read_text()


@pytest.mark.slow
def test_every_part_has_a_dry_run(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", parts="")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = ("environment", "losses", "lattices", "correctness", "profile", "tune", "races")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{part}.txt" for part in parts[:-1]} | {"bench.json", "forms.json"} and len(names) <= 8
    assert all(f"{part}: done" in done.stdout for part in parts)
    assert main([str(tmp_path), "--out", str(tmp_path / "pages")]) == 0
    page = next((tmp_path / "pages").glob("*.md")).read_text()
    assert all(f"quick: {op}" in page for op in ("rnnt", "tdt", "lattice", "lact"))


def test_a_part_that_is_cut_off_loses_nothing_of_the_others(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", parts="environment losses races", LIMIT_losses="1")
    assert done.returncode == 1
    for name, end in (("environment", "done"), ("losses", "cut off"), ("races", "done")):
        assert f"{name}: {end}" in done.stdout
    assert '"torch"' in (tmp_path / "environment.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(tmp_path, parts="environment")
    assert done.returncode == 1 and "nothing was run" in done.stderr and not any(tmp_path.iterdir())
    assert main([str(tmp_path)]) == 1 and "no bench.json" in capsys.readouterr().err
