"""Some seconds of damaged corpora in `make test`; for more, see tests/data/fuzz.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 5.0


@pytest.mark.parametrize("options", [[], ["--no-programs", "--seed", "1"]], ids=["ffmpeg", "no ffmpeg"])
def test_damaged_corpora_give_only_clear_errors(repo: Path, options: list[str]) -> None:
    """With programs of these names on PATH, which leave a mark when they are started, and without."""
    command = [sys.executable, "-m", "tests.data.fuzz", "--seconds", str(SECONDS), *options]
    done = subprocess.run(command, cwd=repo, capture_output=True, timeout=SECONDS + 120)
    said = done.stdout.decode(errors="replace").splitlines()
    # A crash has no traceback: the last case that was begun says which it was.
    failures = [line for line in said if not line.startswith("case ")]
    assert done.returncode == 0, "\n".join(
        [*said[-1:], *failures, done.stderr.decode(errors="replace")[-2000:]]
    )
    cases, decoded = (int(word) for word in said[-1].split() if word.isdigit())
    assert cases > 20 and decoded > 0, "the fuzzer reads something"
