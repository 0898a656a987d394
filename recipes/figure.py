"""matplotlib, which is optional."""

from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.files import writing


def figure_class() -> Any:
    """matplotlib's Figure. Raises MayaError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  not pyplot: no display and no global state
    except ImportError:
        raise MayaError("drawing needs matplotlib: pip install 'maya-asr[plot]'") from None
    return Figure


def save_figure(figure: Any, path: Path, *, dpi: int) -> None:
    """Write a picture in the format of the suffix of `path`, such as .png or .pdf; its folder is made if
    missing. Raises MayaError for an unknown format, and where the file cannot be written."""
    formats = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lower().removeprefix(".")
    if kind not in formats:
        raise MayaError(f"{path} has no suffix of a picture; expected one of {', '.join(sorted(formats))}")
    with writing(path) as partial:
        figure.savefig(partial, dpi=dpi, format=kind)
