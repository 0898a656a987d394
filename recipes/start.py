"""The start of a command."""

import gc
import sys


def import_torch() -> None:
    """Import torch with the garbage collector off, and let the collector leave alone what was imported: it
    would go through a million objects several times, which is a third of the time of the import."""
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import torch  # noqa: F401, PLC0415
    finally:
        gc.freeze()
        gc.enable()
