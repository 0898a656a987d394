"""Every Triton kernel compiles for sm_80 and sm_90, without spills and within limits, also without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def run(module: str, *options: str) -> None:
    # In a process of its own: the compiler refuses kernels that were imported for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith(": passed\n")


def test_every_kernel_compiles_within_limits() -> None:
    run("maya.kernels.compile_gate", "--quick")


@pytest.mark.slow
def test_all_cases_compile_within_limits() -> None:
    run("maya.kernels.compile_gate")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["80", "90"])
def test_every_launch_compiles(target: str) -> None:
    run("tests.kernels.compile_launches", target)
