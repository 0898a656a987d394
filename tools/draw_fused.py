"""The figure of kernels/README.md: how the fused loss works, and which lattice cells its backward visits.

    python -m tools.draw_fused docs/images/fused_joint.png

The lattices are computed, by the joint of the benchmarks' problems. Needs matplotlib: pip install
'maya-asr[plot]'.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.errors import MayaError
from maya.kernels.joint import DEFAULT_EPS
from maya.kernels.joint.bench import posteriors_of
from maya.kernels.joint.synthetic import synthetic_problem
from maya.recipes.figure import figure_class

FRAMES, LABELS, HIDDEN, VOCAB = 250, 60, 640, 2048
KEPT, SHORT, WORK = "#dceaf7", "#fbe3c8", "#f2f2f2"  # what stays, what lives for a chunk, what computes
BOXES = (  # x, y, width, text, colour; the upper row is the forward pass, the lower one the backward
    (0.0, 1, 1.5, "f (B, S, H)\ng (B, U+1, H)", KEPT),
    (2.1, 1, 2.3, "a chunk of rows (t, u)\nlogits = W act(f + g) + c", SHORT),
    (5.0, 1, 2.5, "3 numbers a row:\nlog-sum-exp, blank, label", KEPT),
    (8.1, 1, 1.7, "lattice:\nloss (B,)", WORK),
    (8.1, 0, 1.7, "posteriors:\noccupancy of a row", KEPT),
    (5.0, 0, 2.5, "only rows with\noccupancy > eps", WORK),
    (2.1, 0, 2.3, "a chunk of those rows:\nlogits again, their gradient", SHORT),
    (0.0, 0, 1.5, "df, dg,\ndW, dc", KEPT),
)
ARROWS = ((1.5, 2.1, 1), (4.4, 5.0, 1), (7.5, 8.1, 1), (8.1, 7.5, 0), (5.0, 4.4, 0), (2.1, 1.5, 0))
HEIGHT = 0.62  # of a box


def occupancy(kind: str) -> Tensor:
    """(S, U+1) posterior of passing each cell of one utterance."""
    posteriors = posteriors_of(synthetic_problem((1, FRAMES, LABELS, HIDDEN, VOCAB), kind=kind))
    assert posteriors.blank is not None and posteriors.label is not None
    return (posteriors.blank + posteriors.label)[0]


def draw(path: str | Path) -> None:
    figure = figure_class()(figsize=(10.5, 5.6), layout="constrained")
    flow, maps = figure.subfigures(2, 1, height_ratios=(0.85, 1))
    _draw_flow(flow.add_subplot())
    for i, kind in enumerate(("uniform", "sharp")):
        _draw_lattice(maps, maps.add_subplot(1, 2, i + 1), kind)
    figure.savefig(path, dpi=120)


def _draw_flow(axes: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    for x, y, width, text, colour in BOXES:
        shape = FancyBboxPatch(
            (x, y), width, HEIGHT, boxstyle="round,pad=0.02", fc=colour, ec="#555555", lw=0.8
        )
        axes.add_patch(shape)
        axes.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=8.5)
    for start, end, y in ARROWS:
        _arrow(axes, (start, y + HEIGHT / 2), (end, y + HEIGHT / 2))
    _arrow(axes, (8.95, 1), (8.95, HEIGHT))
    axes.text(0, 1.78, "forward", fontsize=9, weight="bold")
    axes.text(0, -0.26, "backward", fontsize=9, weight="bold")
    for x, colour, text in (
        (3.0, KEPT, "kept: O(B S U)"),
        (5.1, SHORT, "lives for a chunk: rows × V"),
        (8.3, WORK, "computes"),
    ):
        axes.add_patch(
            FancyBboxPatch((x, -0.3), 0.2, 0.12, boxstyle="round,pad=0.02", fc=colour, ec="#555555")
        )
        axes.text(x + 0.32, -0.24, text, fontsize=8.5, va="center")
    axes.set_xlim(-0.1, 9.9)
    axes.set_ylim(-0.4, 1.95)
    axes.axis("off")


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555", "shrinkA": 3, "shrinkB": 3}
    )


def _draw_lattice(figure: Any, axes: Any, kind: str) -> None:
    from matplotlib.colors import LogNorm

    cells = occupancy(kind)
    kept = cells > DEFAULT_EPS
    shown = torch.where(kept, cells, torch.nan).T.numpy()
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", norm=LogNorm(DEFAULT_EPS, 1.0))
    figure.colorbar(image, ax=axes, label="occupancy", shrink=0.9)
    lost = float(cells[~kept].sum() / cells.sum())
    share = f"{float(kept.float().mean()):.1%} of the rows have occupancy > {DEFAULT_EPS:g}"
    axes.set_title(f"{kind} lattice: {share};\nthe others together hold {lost:.3%} of the mass", fontsize=9)
    axes.set_xlabel("frame t")
    axes.set_ylabel("label u")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tools.draw_fused", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/images/fused_joint.png"))
    options = parser.parse_args(arguments)
    try:
        draw(options.out)
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
