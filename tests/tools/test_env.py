"""tools/env.sh against a Python that only pretends to install, so that every interruption can be tried."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Stands for python3.11 and for the Python of the environment it "makes". What it is asked to do is logged;
# `pip install` fails while a file `fail` exists beside the checkout.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  "-c "*) exit 0 ;;                                    # the question whether it is new enough
  --version) echo "Python 3.11.0" ;;
  "-m venv "*) echo venv >>"$LOG"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
  "- "*) [ -f "$2/pyvenv.cfg" ] ;;                     # the questions asked through a script on stdin
  *"pip --require-virtualenv install"*)
    echo install >>"$LOG"
    touch "$(dirname "$0")/pip-was-here"
    [ ! -e "$TOP/fail" ] ;;
  *) echo "unexpected: $*" >>"$LOG"; exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, repo: Path) -> Path:
    """A folder with the parts of a checkout that env.sh looks at, and a fake Python on its PATH."""
    top = tmp_path / "check out"  # people do have spaces in their paths
    (top / "tools").mkdir(parents=True)
    (top / "bin").mkdir()
    shutil.copy(repo / "tools" / "env.sh", top / "tools")
    (top / "setup.py").write_text("one")
    (top / "bin" / "python3.11").write_text(FAKE_PYTHON)
    (top / "bin" / "python3.11").chmod(0o755)
    return top


def call(top: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Source env.sh in a strict shell that finds the fake Python first; prints which `python` it gives."""
    env = {"PATH": f"{top / 'bin'}:/usr/bin:/bin", "LOG": str(top / "log"), "TOP": str(top), **variables}
    script = (
        "set -euo pipefail; . tools/env.sh; python() { return 1; }; maya_env; unset -f python; type -P python"
    )
    return subprocess.run(
        ["bash", "-c", script], cwd=top, env=env, capture_output=True, text=True, timeout=30
    )


def log(top: Path) -> list[str]:
    """What was asked of the fake Python since the last look."""
    path = top / "log"
    lines = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_made_once_then_used(checkout: Path) -> None:
    first = call(checkout)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(checkout / ".venv" / "bin" / "python")
    assert "making .venv" in first.stderr and log(checkout) == ["venv", "install"]
    second = call(checkout)
    assert (second.returncode, second.stderr, log(checkout)) == (0, "", [])


def test_changed_requirements_are_installed_into_the_same_environment(checkout: Path) -> None:
    call(checkout)
    log(checkout)
    (checkout / "setup.py").write_text("two")
    assert "up to date" in call(checkout).stderr
    assert log(checkout) == ["install"]
    assert call(checkout).stderr == "" and log(checkout) == []


def test_a_failed_installation_is_begun_again(checkout: Path) -> None:
    (checkout / "fail").touch()
    failed = call(checkout)
    assert failed.returncode == 1 and "did not finish; run the same command again" in failed.stderr
    log(checkout)
    (checkout / "fail").unlink()
    half_made = checkout / ".venv" / "bin" / "half-copied"
    half_made.touch()
    assert call(checkout).returncode == 0
    assert log(checkout) == ["venv", "install"] and not half_made.exists()


def test_an_environment_that_lost_its_marks_is_made_anew(checkout: Path) -> None:
    # A removal that was interrupted: Python still runs, but as the one beneath, and pip would install there.
    call(checkout)
    log(checkout)
    (checkout / ".venv" / "pyvenv.cfg").unlink()
    assert call(checkout).returncode == 0
    assert log(checkout) == ["venv", "install"]


def test_a_moved_checkout_is_installed_again(checkout: Path) -> None:
    call(checkout)
    log(checkout)
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert call(moved).returncode == 0
    assert log(moved) == ["venv", "install"]


def test_an_environment_made_by_hand_is_kept(checkout: Path) -> None:
    call(checkout)
    (checkout / ".venv" / ".maya-complete").unlink()
    log(checkout)
    (checkout / ".venv" / "mine").touch()
    assert call(checkout).returncode == 0
    assert log(checkout) == ["install"] and (checkout / ".venv" / "mine").exists()


def test_no_python_is_said_clearly(checkout: Path) -> None:
    for name in ("python3.11", "python3", "python", "python3.12", "python3.13"):  # shadow the system's
        (checkout / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (checkout / "bin" / name).chmod(0o755)
    failed = call(checkout)
    assert failed.returncode == 1 and "needs Python 3.11 or newer" in failed.stderr
    assert not (checkout / ".venv").exists()


def test_the_active_environment_is_used_as_it_is(repo: Path) -> None:
    script = "set -euo pipefail; . tools/env.sh; maya_env; type -P python"
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "VIRTUAL_ENV": "/some/where/else"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=repo, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).parent == Path(sys.executable).parent
