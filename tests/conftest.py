"""Fixtures for all tests: fixed seeds, few threads, and the shared reference material if present."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from maya.config import _KINDS
from tests.pair import Pair

REPO = Path(__file__).resolve().parents[1]

# Triton reads the switch when a kernel is decorated, so it has to be set before any kernel is imported.
# With a GPU the kernels are compiled and run there instead.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The programs that tests start compile torch and Maya anew, 6 s of processor time each, where this forbids
# Python to keep bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torch-threads",
        type=int,
        default=1,
        help="threads torch may use in each pytest process (1: tensors are small, and xdist uses the cores)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Tests of stop signals, even if the tests themselves run under `nohup` or in the background of a script.
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(config.getoption("--torch-threads"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` if there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed all generators, so that random numbers do not depend on the order of tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def _pairs() -> Iterator[list[Pair]]:
    pairs: list[Pair] = []
    yield pairs
    for pair in pairs:
        pair.close()


@pytest.fixture(autouse=True)
def _kinds_restored() -> Iterator[None]:
    """Remove the configurations that a test registered from a user's file: later tests list all kinds."""
    before = {family: set(kinds) for family, kinds in _KINDS.items()}
    yield
    for family, kinds in _KINDS.items():
        for kind in set(kinds) - before.get(family, set()):
            if not kinds[kind].__module__.startswith("maya."):  # a module of maya is not imported again
                del kinds[kind]


@pytest.fixture
def pair(_pairs: list[Pair]) -> Pair:
    """Two processes that all tests share. They are restarted after a test that broke them."""
    if not _pairs or not _pairs[-1].alive:
        _pairs.append(Pair())
    return _pairs[-1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of this checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded tensors and real speech beside the checkout. Skips the test if it is absent."""
    path = REPO.parent / "shared"
    if not path.is_dir():
        pytest.skip("the shared material (../shared: golden tensors, recorded speech) is not on this machine")
    return path
