"""The figure of docs/architecture.md: the data from audio to error rates, and the doors for code of your own.

    python -m tools.draw_architecture docs/images/architecture.png

Needs matplotlib: pip install 'maya-asr[plot]'.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from maya.recipes.figure import figure_class

DATA, STEP, PLUG = "#dceaf7", "#f2f2f2", "#fbe3c8"  # values, functions, functions that a user's file may add
WIDTH, HEIGHT, GAP = 1.5, 0.62, 0.42
ROWS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("corpus\nfolder", DATA),
        ("reader", PLUG),
        ("Row\ntext, labels", DATA),
        ("prepare\nchecks, splits", STEP),
        ("table of Entry\nParquet", DATA),
    ),
    (
        ("table", DATA),
        ("plan\nstep n of a rank", STEP),
        ("loading\ndecode, augment", STEP),
        ("Batch\naudio (B, N)", DATA),
        ("features\n(B, T, F)", PLUG),
    ),
    (
        ("features", DATA),
        ("encoder", PLUG),
        ("Encoded\nframes (B, S, D)", DATA),
        ("heads", PLUG),
        ("losses (B,)\none weighted sum", DATA),
    ),
    (
        ("Encoded", DATA),
        ("decoding\nmethod", PLUG),
        ("Hypothesis\ntokens, text", DATA),
        ("score", STEP),
        ("error rates\nwith intervals", DATA),
    ),
)
NAMES = ("maya prepare", "maya train: data", "maya train: model", "maya decode, score")


def draw(path: str | Path) -> None:
    """Write the figure to `path`."""
    figure = figure_class()(figsize=(10.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for row, (boxes, name) in enumerate(zip(ROWS, NAMES, strict=True)):
        y = -row * (HEIGHT + 0.5)
        axes.text(-0.25, y + HEIGHT / 2, name, ha="right", va="center", fontsize=9, style="italic")
        for column, (text, colour) in enumerate(boxes):
            _box(axes, column * (WIDTH + GAP), y, text, colour, arrow=column > 0)
    for x, colour, text in (
        (0.0, DATA, "value"),
        (2.2, STEP, "function"),
        (4.4, PLUG, "plugs in: one file of yours"),
    ):
        y = -len(ROWS) * (HEIGHT + 0.5) + 0.25
        axes.add_patch(_rectangle(x, y, 0.25, 0.2, colour))
        axes.text(x + 0.35, y + 0.1, text, va="center", fontsize=9)
    axes.set_xlim(-2.3, 5 * (WIDTH + GAP))
    axes.set_ylim(-len(ROWS) * (HEIGHT + 0.5) + 0.1, HEIGHT + 0.15)
    axes.axis("off")
    figure.savefig(path, dpi=120)


def _box(axes: Any, x: float, y: float, text: str, colour: str, *, arrow: bool) -> None:
    axes.add_patch(_rectangle(x, y, WIDTH, HEIGHT, colour))
    axes.text(x + WIDTH / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=9)
    if arrow:
        middle = y + HEIGHT / 2
        options = {"arrowstyle": "-|>", "color": "#555555"}
        axes.annotate("", (x - 0.03, middle), (x - GAP + 0.03, middle), arrowprops=options)


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> Any:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02"
    return FancyBboxPatch((x, y), width, height, boxstyle=style, fc=colour, ec="#555555", lw=0.8)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Draw the figure of docs/architecture.md."
    )
    parser.add_argument("path", type=Path, help="the file to write, .png or .svg")
    draw(parser.parse_args(argv).path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
