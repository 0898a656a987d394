"""tools/env.sh with a fake Python that only pretends to install, so that every interruption can be tested."""

import shutil
import subprocess
from pathlib import Path

import pytest

# Replaces python3.11 and the Python of the environment that it "makes". It logs its calls.
# Files beside the checkout control it: `pip install` fails while there is a file `fail`, requirements
# are missing while there is no file `complete`, and `place` holds the checkout whose maya it imports.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  "-c "*) exit 0 ;;                                    # the question whether it is new enough
  --version) echo "Python 3.11.0" ;;
  "-m venv "*) echo venv >>"$LOG"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
  -) [ ! -e "$TOP/place" ] || cat "$TOP/place" ;;      # which maya it imports
  "- "*) [ -f "$2/pyvenv.cfg" ] ;;                     # whether it is an environment of its own
  *"requirements.py missing "*) [ -e "$TOP/complete" ] || { echo "torch>=2.11, lhotse"; exit 1; } ;;
  *"requirements.py constraints tested") echo "torch==2.12.0" ;;
  *"pip --require-virtualenv install"*" setuptools>=77") ;;
  *"pip --require-virtualenv install"*)
    all=$*; echo "install:${all##*\[}" >>"$LOG"
    while [ "$1" != -c ]; do shift; done
    grep -q torch "$2" || echo "no constraints" >>"$LOG"
    touch "$(dirname "$0")/pip-was-here"
    [ ! -e "$TOP/fail" ] ;;
  "-m maya.recipes.cli "*) echo "cli with $PYTHONPATH" ;;
  *) echo "unexpected: $*" >>"$LOG"; exit 1 ;;
esac
"""
INSTALL = "install:mini]"


@pytest.fixture
def checkout(tmp_path: Path, repo: Path) -> Path:
    """A folder with the parts of a checkout that env.sh reads, and a fake Python on its PATH."""
    top = tmp_path / "check out"  # people do have spaces in their paths
    (top / "tools").mkdir(parents=True)
    (top / "bin").mkdir()
    shutil.copy(repo / "tools" / "env.sh", top / "tools")
    (top / "setup.py").write_text("one")
    (top / "constraints.txt").write_text("torch==2.13.0")
    (top / "bin" / "python3.11").write_text(FAKE_PYTHON)
    (top / "bin" / "python3.11").chmod(0o755)
    return top


@pytest.fixture
def active(checkout: Path) -> dict[str, str]:
    """The variables of an active virtual environment that is not this checkout's .venv."""
    folder = checkout.parent / "active"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(checkout / "bin" / "python3.11", folder / "bin" / "python")
    return {"VIRTUAL_ENV": str(folder), "PATH": f"{folder / 'bin'}:{checkout / 'bin'}:/usr/bin:/bin"}


def call(top: Path, *, extra: str = "", then: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Source env.sh in a strict shell that finds the fake Python first. It prints the path of `python`."""
    env = {"PATH": f"{top / 'bin'}:/usr/bin:/bin", "LOG": str(top / "log"), "TOP": str(top), **variables}
    hide = "" if "VIRTUAL_ENV" in variables else "python() { return 1; };"  # the system's is not called
    script = f"set -euo pipefail; . tools/env.sh; {hide} maya_env {extra}; unset -f python; type -P python"
    return subprocess.run(
        ["bash", "-c", f"{script}; {then}"], cwd=top, env=env, capture_output=True, text=True, timeout=30
    )


def log(top: Path) -> list[str]:
    """The calls of the fake Python since the last `log`."""
    path = top / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_environment_is_created_once_and_reused(checkout: Path) -> None:
    first = call(checkout)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(checkout / ".venv" / "bin" / "python")
    assert "making .venv" in first.stderr and log(checkout) == ["venv", INSTALL]
    second = call(checkout)
    assert (second.returncode, second.stderr, log(checkout)) == (0, "", [])


def test_optional_groups_are_installed_on_demand(checkout: Path) -> None:
    call(checkout)
    log(checkout)
    assert "up to date with '.[dev]'" in call(checkout, extra="dev").stderr
    assert log(checkout) == ["install:dev]"]
    for extra in ("mini", "dev", ""):  # dev holds the rest
        assert call(checkout, extra=extra).stderr == "" and log(checkout) == []


@pytest.mark.parametrize("file", ["setup.py", "constraints.txt"])
@pytest.mark.parametrize("extra", ["mini", "dev"])
def test_changed_requirements_are_installed_into_the_same_environment(
    checkout: Path, file: str, extra: str
) -> None:
    call(checkout, extra=extra)
    log(checkout)
    (checkout / file).write_text("two")
    assert "up to date" in call(checkout).stderr
    assert log(checkout) == [f"install:{extra}]"]  # the test tools of an environment that has them, too
    assert call(checkout).stderr == "" and log(checkout) == []


def test_failed_installation_is_restarted(checkout: Path) -> None:
    (checkout / "fail").touch()
    failed = call(checkout)
    assert failed.returncode == 1 and "did not finish; run the same command again" in failed.stderr
    log(checkout)
    (checkout / "fail").unlink()
    half_made = checkout / ".venv" / "bin" / "half-copied"
    half_made.touch()
    assert call(checkout).returncode == 0
    assert log(checkout) == ["venv", INSTALL] and not half_made.exists()


def test_environment_without_pyvenv_cfg_is_recreated(checkout: Path) -> None:
    # A removal that was interrupted: Python still runs, but as the one beneath, and pip would install there.
    call(checkout)
    log(checkout)
    (checkout / ".venv" / "pyvenv.cfg").unlink()
    assert call(checkout).returncode == 0
    assert log(checkout) == ["venv", INSTALL]


def test_moved_checkout_is_reinstalled(checkout: Path) -> None:
    call(checkout)
    log(checkout)
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert call(moved).returncode == 0
    assert log(moved) == ["venv", INSTALL]


def test_an_environment_made_by_hand_is_kept(checkout: Path) -> None:
    # To get a CPU build of torch, a user creates it and installs torch before calling run.sh.
    call(checkout)
    (checkout / ".venv" / ".maya-complete").unlink()
    log(checkout)
    (checkout / ".venv" / "mine").touch()
    assert call(checkout).returncode == 0
    assert log(checkout) == [INSTALL] and (checkout / ".venv" / "mine").exists()


def test_missing_python_is_explained(checkout: Path) -> None:
    for name in ("python3.11", "python3", "python", "python3.12", "python3.13"):  # shadow the system's
        (checkout / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (checkout / "bin" / name).chmod(0o755)
    failed = call(checkout)
    assert failed.returncode == 1 and "needs Python 3.11 or newer" in failed.stderr
    assert not (checkout / ".venv").exists()


def test_active_environment_with_this_checkout_is_used_silently(
    checkout: Path, active: dict[str, str]
) -> None:
    (checkout / "complete").touch()
    (checkout / "place").write_text(str(checkout))
    done = call(checkout, **active)
    assert (done.returncode, done.stderr, log(checkout)) == (0, "", [])
    assert done.stdout.strip() == f"{active['VIRTUAL_ENV']}/bin/python"


def test_checkout_that_only_pythonpath_names_has_the_command(checkout: Path, active: dict[str, str]) -> None:
    """Python imports this checkout, but no program `maya` was installed."""
    (checkout / "complete").touch()
    (checkout / "place").write_text(str(checkout))
    done = call(checkout, then="maya info", PYTHONPATH=str(checkout), **active)
    assert (done.returncode, done.stderr, log(checkout)) == (0, "", [])
    assert done.stdout.splitlines()[1].startswith(f"cli with {checkout}")


@pytest.mark.parametrize("other", ["", "/another/checkout"])
def test_active_environment_with_all_requirements_is_used(
    checkout: Path, active: dict[str, str], other: str
) -> None:
    (checkout / "complete").touch()
    if other:
        (checkout / "place").write_text(other)
    done = call(checkout, then="maya info; bash -c 'maya info'", PYTHONPATH="/before", **active)
    assert done.returncode == 0 and log(checkout) == [] and not (checkout / ".venv").exists()
    assert done.stderr.startswith(f"maya: running {checkout} with the packages of {active['VIRTUAL_ENV']}")
    assert done.stderr.count("\n") == 1 and (other in done.stderr)
    python, *commands = done.stdout.splitlines()
    assert python == f"{active['VIRTUAL_ENV']}/bin/python"
    assert commands == [f"cli with {checkout}:/before"] * 2


@pytest.mark.parametrize("extra", ["mini", "dev"])
def test_missing_requirements_are_installed_into_the_active_environment(
    checkout: Path, active: dict[str, str], extra: str
) -> None:
    done = call(checkout, extra=extra, **active)
    assert done.returncode == 0, done.stderr
    assert f"into the active environment {active['VIRTUAL_ENV']} (pip install -e '.[{extra}]')" in done.stderr
    assert log(checkout) == [f"install:{extra}]"] and not (checkout / ".venv").exists()
    (checkout / "fail").touch()
    failed = call(checkout, extra=extra, **active)
    assert failed.returncode == 1 and "pip failed" in failed.stderr


def test_active_environment_of_another_checkout_is_unchanged(checkout: Path, active: dict[str, str]) -> None:
    (checkout / "place").write_text("/another/checkout")
    done = call(checkout, **active)
    assert done.returncode == 0, done.stderr
    assert (
        "holds the maya of /another/checkout and lacks torch>=2.11, lhotse: it is left alone" in done.stderr
    )
    assert done.stdout.strip() == str(checkout / ".venv" / "bin" / "python")
    assert log(checkout) == ["venv", INSTALL]
    assert not Path(active["VIRTUAL_ENV"], "bin", "pip-was-here").exists()


def test_system_python_is_never_changed(checkout: Path, active: dict[str, str]) -> None:
    path = {"PATH": active["PATH"], "VIRTUAL_ENV": ""}
    assert call(checkout, **path).returncode == 0
    assert log(checkout) == ["venv", INSTALL]
    shutil.rmtree(checkout / ".venv")
    (checkout / "complete").touch()  # a container that has all
    done = call(checkout, **path)
    assert "nothing is installed" in done.stderr and log(checkout) == [] and not (checkout / ".venv").exists()
    (checkout / "complete").unlink()
    (checkout / "place").write_text(str(checkout))  # one that has this checkout, and some package less
    done = call(checkout, **path)
    assert "it is used as it is" in done.stderr and log(checkout) == [] and not (checkout / ".venv").exists()
