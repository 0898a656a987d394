"""A folder of 2000 recordings, 50 of them bad: results at once, memory as for 20, every bad file named."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recipes.transcribing import save_model, save_recordings


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessRun:
    """first_seconds: until the first line on stdout. peak: bytes of memory."""

    status: int
    first_seconds: float
    lines: int
    peak: int
    errors: str


def transcribe(*arguments: str) -> ProcessRun:
    """`maya transcribe` as a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "maya.recipes.cli", "transcribe", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    process.stdout.readline()
    first, lines = time.perf_counter() - began, 1 + sum(1 for _ in process.stdout)
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    return ProcessRun(
        status=os.waitstatus_to_exitcode(status), first_seconds=first, lines=lines,
        peak=usage.ru_maxrss * 1024, errors="".join(errors),
    )  # fmt: skip


@pytest.mark.slow
def test_2000_files_of_which_50_are_bad(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "best.pt"))
    bad = save_recordings(tmp_path / "many", 2000, bad=50)
    save_recordings(tmp_path / "few", 20)
    assert len(bad) == 50
    few, many = (transcribe(model, str(tmp_path / name), "--vad", "off") for name in ("few", "many"))
    print(few, many, f"memory {many.peak / few.peak:.3f} times that of 20 files")
    assert (few.status, few.lines, many.status, many.lines) == (0, 20, 1, 1950)
    assert all(many.errors.count(str(path)) == 1 for path in bad)
    assert "transcribed 1950 of 2000 recordings" in many.errors and "50 failed" in many.errors
    assert many.first_seconds <= 10
    assert many.peak <= 1.2 * few.peak
