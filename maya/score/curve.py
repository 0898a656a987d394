"""Line charts as SVG text, for a report page that needs no other file and no drawing library."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]

COLOURS = ("#3b7dd8", "#d9703c", "#3f9d63", "#9a5fc0")
WIDTH, HEIGHT = 520, 240  # pixels of one chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 28, 34  # margins around the plotted area
_MOST_POINTS = 400  # more than one per pixel and a half cannot be seen


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in order; none for a missing file.

    A line cut short by a killed run is left out.
    """
    if not Path(path).is_file():
        return []
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
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


def chart(lines: Mapping[str, Points], *, title: str) -> str:
    """An `<svg>` element with one labelled line per entry against a common axis; "" when there is no point.

    lines: label -> (x, y) points in order of x, finite. The vertical axis starts at zero unless a value is
    negative, so that a small change does not look like a large one.
    """
    drawn = {label: _thinned(points) for label, points in lines.items() if points}
    if not drawn:
        return ""
    every = [p for points in drawn.values() for p in points]
    y_ticks = ticks(min(0.0, *(y for _, y in every)), max(y for _, y in every))
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return _LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - y_low) / max(y_high - y_low, 1e-12) * (HEIGHT - _TOP - _BOTTOM)

    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{_LEFT}" y="16" class="title">{html.escape(title)}</text>',
    ]
    for y in y_ticks:
        out.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    for x in ticks(x_low, x_high):
        if x_low <= x <= x_high:
            anchor = f'x="{px(x):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle"'
            out.append(f"<text {anchor}>{x:g}</text>")
    for i, (label, points) in enumerate(drawn.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(points) == 1:
            x, y = points[0]
            out.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{colour}"/>')
        right = WIDTH - _RIGHT - 60 * (len(drawn) - 1 - i)
        label_style = f'text-anchor="end" style="fill:{colour}"'
        out.append(f'<text x="{right}" y="16" {label_style}>{html.escape(label)}</text>')
    out.append("</svg>")
    return "\n".join(out)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers, evenly spaced, from at or below `low` to at or above `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points, each the mean of its neighbours: no part of the run is hidden."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size == 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _finite(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
