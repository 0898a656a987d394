"""Every Triton kernel compiles for sm_80 and sm_90, without spills and within limits, also without a GPU."""

import os
import subprocess
import sys

import pytest


def gate(*options: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the compiler refuses kernels that were imported for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "maya.kernels.compile_gate", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith("compile_gate: passed\n")


def test_every_kernel_compiles_within_limits() -> None:
    check(gate("--quick"))


@pytest.mark.slow
def test_every_case_compiles_within_limits() -> None:
    check(gate())
