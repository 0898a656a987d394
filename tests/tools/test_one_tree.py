"""Two checkouts and an environment with one of them installed: each imports its own code."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

PROBE = """
import importlib.util
for name in ("maya", "maya.text", "maya.kernels", "maya.kernels.lattice", "maya.recipes", "maya.recipes.cli"):
    print(importlib.util.find_spec(name).origin)
"""
FOLDERS = ("maya", "kernels", "recipes", "egs")
FILES = ("setup.py", "pyproject.toml", "constraints.txt", "tools/env.sh", "tools/requirements.py")


@dataclass
class Checkouts:
    first: Path
    second: Path
    active: Path  # a virtual environment into which the first is installed

    def run(self, command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        env |= {"VIRTUAL_ENV": str(self.active), "PATH": f"{self.active / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            command, cwd=cwd, env=env | variables, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def python(self, *arguments: str, cwd: Path, **variables: str) -> str:
        return self.run(["python", *arguments], cwd, **variables).stdout

    def in_env(self, top: Path, then: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment that env.sh of a checkout sets up."""
        return self.run(["bash", "-euo", "pipefail", "-c", f". tools/env.sh; maya_env; {then}"], top)


@pytest.fixture(scope="module")
def checkouts(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkouts:
    top = tmp_path_factory.mktemp("two trees")
    both = Checkouts(top / "first", top / "second", top / "environment")
    for checkout in (both.first, both.second):
        for folder in FOLDERS:
            shutil.copytree(repo / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (checkout / "tools").mkdir()
        for file in FILES:
            shutil.copy(repo / file, checkout / file)
    (both.second / "recipes" / "probe.py").write_text(PROBE)  # the first does not have it
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(both.active)], check=True)
    # All packages but maya come from the environment of the tests, without its links to checkouts.
    (site,) = both.active.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
    ]
    both.python(*install, "-e", str(both.first), cwd=top)
    return both


def places(output: str, top: Path) -> bool:
    """Whether all modules that a probe printed are in the checkout."""
    lines = output.split("\n")[:-1]
    inside = ["maya", "maya/text", "kernels", "kernels/lattice", "recipes", "recipes/cli.py"]
    return [line.replace("/__init__.py", "") for line in lines] == [str(top / place) for place in inside]


def test_environment_has_the_first_checkout(checkouts: Checkouts) -> None:
    assert places(checkouts.python("-c", PROBE, cwd=checkouts.active), checkouts.first)


def test_second_checkout_imports_its_own_code(checkouts: Checkouts) -> None:
    second = checkouts.second
    assert places(checkouts.python("-c", PROBE, cwd=second), second)
    assert places(checkouts.python("-m", "maya.recipes.probe", cwd=second), second)
    assert places(checkouts.python("-c", PROBE, cwd=checkouts.active, PYTHONPATH=str(second)), second)


def test_first_checkout_imports_its_own_code_despite_pythonpath(checkouts: Checkouts) -> None:
    probe = checkouts.python("-c", PROBE, cwd=checkouts.first, PYTHONPATH=str(checkouts.second))
    assert places(probe, checkouts.first)
    done = checkouts.run(
        ["bash", "-c", '. tools/env.sh; maya_env; cd /; python -c "$PROBE"'],
        checkouts.first,
        PROBE=PROBE,
        PYTHONPATH=str(checkouts.second),
    )
    assert places(done.stdout, checkouts.first)


def test_run_sh_uses_its_own_checkout_without_reinstalling(checkouts: Checkouts) -> None:
    pytest.importorskip("espeakng_loader", reason="run.sh needs all of '.[mini]'")
    first, second = checkouts.first, checkouts.second
    done = checkouts.in_env(second, f"cd /; python -c '{PROBE}'")
    assert places(done.stdout, second)
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"maya: running {second} with the packages of {checkouts.active}; nothing is installed"
    )
    assert str(first) in line and not (second / ".venv").exists()
    assert places(checkouts.python("-c", PROBE, cwd=checkouts.active), first)
    done = checkouts.in_env(first, f"cd /; python -c '{PROBE}'")
    assert places(done.stdout, first) and done.stderr == ""


def test_torchrun_imports_the_second_checkout(checkouts: Checkouts) -> None:
    pytest.importorskip("espeakng_loader", reason="run.sh needs all of '.[mini]'")
    launch = "python -m torch.distributed.run --standalone --nproc-per-node 1 -m maya.recipes.probe"
    assert places(checkouts.in_env(checkouts.second, f"cd /; {launch}").stdout, checkouts.second)


@pytest.mark.parametrize("safe", [(), ("-P",)], ids=["python", "no current folder"])
def test_pytest_imports_the_second_checkout(checkouts: Checkouts, safe: tuple[str, ...]) -> None:
    second = checkouts.second
    (second / "tests").mkdir(exist_ok=True)
    (second / "tests" / "test_probe.py").write_text(f"def test_probe():\n    exec({PROBE!r})\n")
    options = ["-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/test_probe.py"]
    lines = checkouts.python(*safe, *options, cwd=second).splitlines()
    printed = [line for line in lines if line.startswith("/")]
    assert places("\n".join([*printed, ""]), second)
