"""torchaudio is an oracle of some tests. It is compiled against one torch and loads beside no other, so it is
optional, and this is the one place where tests import it."""

import importlib
from typing import Any

import pytest


def torchaudio(module: str = "functional") -> Any:
    """A module of torchaudio. Skips the test with the reason if it does not load."""
    try:
        return importlib.import_module(f"torchaudio.{module}")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()
        pytest.skip(f"torchaudio does not load here: {reason[0] if reason else type(error).__name__}")
