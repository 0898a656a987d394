"""The training curves of one or more runs as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.recipes.figure import figure_class, save_figure
from maya.score.page import read_metrics, series

Rows = Sequence[Mapping[str, Any]]

# Panel title -> the lines in it: (kind of row, column, factor, label).
PANELS: dict[str, tuple[tuple[str, str, float, str], ...]] = {
    "loss": (("train", "loss", 1.0, "train"), ("valid", "loss", 1.0, "dev")),
    "dev error rate, %": (("valid", "wer", 100.0, "WER"), ("valid", "cer", 100.0, "CER")),
    "learning rate": (("train", "lr", 1.0, ""),),
    "gradient norm": (("train", "grad_norm", 1.0, ""),),
    "seconds per step": (("train", "seconds_per_step", 1.0, ""),),
}
BY_LANGUAGE = "dev WER by language, %"
STYLES = ("-", "--", ":", "-.")  # one per run


def plot_curves(runs: Mapping[str, Rows], path: str | Path) -> list[str]:
    """Draw the curves of `runs` (name -> rows of metrics.jsonl) into `path`; returns the panels drawn.

    A panel that no run has numbers for is left out. Raises MayaError when there is nothing to draw, and when
    matplotlib is not installed.
    """
    panels = {title: _lines(runs, columns) for title, columns in PANELS.items()}
    codes = sorted({k for rows in runs.values() for r in rows for k in r if k.startswith("wer_")})
    languages = tuple(("valid", code, 100.0, code.removeprefix("wer_")) for code in codes)
    panels[BY_LANGUAGE] = _lines(runs, languages)
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        raise MayaError(f"no curve to draw: {', '.join(runs) or 'no run'} has no train or valid rows yet")
    figure = figure_class()(figsize=(12, 3.2 * ((len(panels) + 1) // 2)), layout="constrained")
    for i, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, i + 1)
        for label, style, points in lines:
            marker = "o" if len(points) == 1 else ""
            axes.plot([x for x, _ in points], [y for _, y in points], style, marker=marker, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        if all(y >= 0 for _, _, points in lines for _, y in points):
            axes.set_ylim(bottom=0)  # so that a small change does not look like a large one
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=7, ncols=2 if len(lines) > 6 else 1)
    save_figure(figure, Path(path), dpi=120)
    return list(panels)


def _lines(
    runs: Mapping[str, Rows], columns: Sequence[tuple[str, str, float, str]]
) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """(label, line style, points) of every run and column that has points."""
    lines = []
    for (run, rows), style in zip(runs.items(), STYLES * len(runs), strict=False):
        for kind, column, factor, label in columns:
            points = [(x, factor * y) for x, y in series(rows, kind, column)]
            if points:
                lines.append((" ".join(p for p in (run if len(runs) > 1 else "", label) if p), style, points))
    return lines


def plot_runs(runs: Sequence[Path], out: Path) -> list[str]:
    """Draw the curves of run folders or metrics.jsonl files into `out`; returns the panels drawn. Raises
    MayaError for a missing file."""
    files = [p / "metrics.jsonl" if p.is_dir() else p for p in runs]
    for file in files:
        if not file.is_file():
            raise MayaError(f"{file} does not exist: give run folders or metrics.jsonl files")
    folders = [file.parent.name for file in files]
    names = folders if len(set(folders)) == len(files) else [str(file) for file in files]
    return plot_curves({name: read_metrics(file) for name, file in zip(names, files, strict=True)}, out)
