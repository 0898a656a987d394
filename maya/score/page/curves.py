"""Training curves from a run's metrics.jsonl."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.pages import line_chart


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in order; none for a missing file. Incomplete lines of a killed run are
    left out."""
    if not Path(path).is_file():
        return []
    rows = []
    # str.splitlines would end a line at characters that a text may hold, such as U+2028.
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def series(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of every row of this kind that has a finite `name`."""
    points = [(_finite(r.get("step")), _finite(r.get(name))) for r in rows if r.get("kind") == kind]
    return [(x, y) for x, y in points if x is not None and y is not None]


def training_section(metrics: str | Path | None) -> str:
    """Loss and dev error rates by step as HTML; "" where nothing was recorded."""
    rows = read_metrics(metrics) if metrics else []
    errors = {name.upper(): series(rows, "valid", name) for name in ("wer", "cer")}
    charts = [
        line_chart(
            {"train": series(rows, "train", "loss"), "dev": series(rows, "valid", "loss")},
            title="Loss by step",
        ),
        line_chart(
            {k: [(x, 100 * y) for x, y in v] for k, v in errors.items()}, title="Dev error rate, % by step"
        ),
    ]
    drawn = "\n".join(c for c in charts if c)
    if not drawn:
        return ""
    return f'<details class="training"><summary>Training</summary><div class="charts">{drawn}</div></details>'


def _finite(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
