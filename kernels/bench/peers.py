"""torchaudio is a rival in some benchmarks. It is compiled against one torch and loads beside no other, so it
is optional, and this is the one place where programs import it."""

import importlib
from typing import Any


def torchaudio(module: str = "functional") -> tuple[Any, str]:
    """A module of torchaudio and "", or None and why there is none, in a few words."""
    try:
        return importlib.import_module(f"torchaudio.{module}"), ""
    except ModuleNotFoundError:
        return None, "torchaudio is not installed"
    except (ImportError, OSError, RuntimeError, AttributeError):  # a library of another torch
        return None, "torchaudio does not load beside this torch"
