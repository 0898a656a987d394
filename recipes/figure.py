"""matplotlib, which is optional."""

from typing import Any

from maya.errors import MayaError


def figure_class() -> Any:
    """matplotlib's Figure. Raises MayaError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  not pyplot: no display and no global state
    except ImportError:
        raise MayaError("drawing needs matplotlib: pip install 'maya-asr[plot]'") from None
    return Figure
