"""torchaudio, a peer in some benchmarks. It is compiled against one version of torch and loads with no other,
so it is optional. Programs import it only here.
"""

import importlib
from typing import Any


def torchaudio(module: str = "functional") -> tuple[Any, str]:
    """A module of torchaudio and "", or None and the reason why it is missing."""
    try:
        return importlib.import_module(f"torchaudio.{module}"), ""
    except ModuleNotFoundError:
        return None, "torchaudio is not installed"
    except (ImportError, OSError, RuntimeError, AttributeError):  # a library of another torch
        return None, "torchaudio does not load beside this torch"
