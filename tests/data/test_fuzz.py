"""A few seconds of the fuzzer in tests/data/fuzz.py, as part of `make test`."""

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 5.0


@pytest.mark.parametrize("options", [[], ["--no-programs", "--seed", "1"]], ids=["ffmpeg", "no ffmpeg"])
def test_damaged_corpora_raise_only_maya_errors(repo: Path, options: list[str]) -> None:
    """Runs with and without traps on PATH: programs that write a file when they are started."""
    command = [sys.executable, "-m", "tests.data.fuzz", "--seconds", str(SECONDS), *options]
    done = subprocess.run(command, cwd=repo, capture_output=True, timeout=SECONDS + 120)
    output = done.stdout.decode(errors="replace").splitlines()
    # A crash has no traceback; the last printed case identifies it.
    failures = [line for line in output if not line.startswith("case ")]
    assert done.returncode == 0, "\n".join(
        [*output[-1:], *failures, done.stderr.decode(errors="replace")[-2000:]]
    )
    cases, decoded = (int(word) for word in output[-1].split() if word.isdigit())
    assert cases > 20 and decoded > 0, "the fuzzer must decode some utterances"
