"""Bars and points with intervals for the report page, as SVG that needs no script."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.pages import COLOURS, END, MIDDLE, TITLE, Html, escaped, svg, svg_line, svg_text, ticks
from maya.score.report import percent, span
from maya.score.wer import REPLICATES, ErrorStats, Interval, interval

WIDTH, HEIGHT = 180, 14  # units of a bar
CHART_WIDTH, CHART_HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 30, 46
MOST_BINS, LEAST_IN_BIN = 8, 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Utterances whose value lies in [low, high), the last bin with its upper end; their WER by system."""

    low: float
    high: float
    utterances: int
    rates: tuple[float, ...]
    intervals: tuple[Interval, ...]


def bar(rate: float, bounds: Interval, most: float) -> Html:
    """A bar of an error rate with its interval as a line. most: the rate at full width, a fraction."""
    if not math.isfinite(rate):
        return Html("")
    scale = WIDTH / max(most, 1e-9)
    parts = [f'<rect x="0" y="2" width="{min(rate * scale, WIDTH):.1f}" height="{HEIGHT - 4}" class="fill"/>']
    if math.isfinite(bounds.low) and math.isfinite(bounds.high):
        x = (min(bounds.low * scale, WIDTH), min(bounds.high * scale, WIDTH))
        parts.append(_whisker(x))
    label = f"{percent(rate)} %, 95 % interval {span(bounds)}"
    return Html(f'<span class="bar">{svg(parts, WIDTH, HEIGHT, label)}</span>')


def difference_bar(difference: float, bounds: Interval, most: float) -> Html:
    """A difference of rates as a bar from the middle, to the left where it is negative, and its interval."""
    if not math.isfinite(difference):
        return Html("")
    middle, scale = WIDTH / 2, WIDTH / 2 / max(most, 1e-9)

    def place(value: float) -> float:
        return min(max(middle + value * scale, 0.0), WIDTH)

    begin, end = sorted((middle, place(difference)))
    style = "better" if difference < 0 else "worse"
    parts = [f'<rect x="{begin:.1f}" y="2" width="{end - begin:.1f}" height="{HEIGHT - 4}" class="{style}"/>']
    parts.append(svg_line((middle, middle), (0, HEIGHT), "zero"))
    if math.isfinite(bounds.low) and math.isfinite(bounds.high):
        parts.append(_whisker((place(bounds.low), place(bounds.high))))
    label = f"{100 * difference:+.2f} points, 95 % interval {span(bounds)}"
    return Html(f'<span class="bar">{svg(parts, WIDTH, HEIGHT, label)}</span>')


def _whisker(x: tuple[float, float]) -> str:
    y = HEIGHT / 2
    ends = (svg_line((end, end), (3, HEIGHT - 3), "whisker") for end in x)
    return svg_line(x, (y, y), "whisker") + "".join(ends)


def widest(rates: Sequence[float], intervals: Sequence[Interval]) -> float:
    """The rate at full width for a column of bars: the highest finite end of an interval."""
    values = [*(abs(r) for r in rates), *(abs(x) for i in intervals for x in (i.low, i.high))]
    return max((value for value in values if math.isfinite(value)), default=1.0) or 1.0


def bins(
    values: NDArray[np.float64], stats: Sequence[ErrorStats], digits: int, replicates: int = REPLICATES
) -> list[Bin]:
    """WER by equally filled bins of a value of each utterance, (utterances,) with NaN where it is unknown.

    stats: of each system, in the order of `values`. digits: after the point, to which edges are rounded.
    Bins hold `LEAST_IN_BIN` utterances or more where there are so many, and there are at most `MOST_BINS`.
    """
    numbers = np.flatnonzero(np.isfinite(values))
    if not len(numbers):
        return []
    count = max(1, min(MOST_BINS, len(numbers) // LEAST_IN_BIN))
    edges = np.unique(np.round(np.quantile(values[numbers], np.linspace(0, 1, count + 1)), digits))
    step = 10.0**-digits
    edges[0] = min(edges[0], np.floor(values[numbers].min() / step) * step)
    last = max(edges[-1], np.ceil(values[numbers].max() / step) * step)
    edges = np.array([edges[0], last]) if len(edges) == 1 else np.array([*edges[:-1], last])
    result = []
    for k, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        upper = values <= high if k == len(edges) - 2 else values < high
        rows = np.flatnonzero((values >= low) & upper)
        if not len(rows):
            continue
        chosen = [ErrorStats(counts=s.counts[rows]) for s in stats]
        result.append(
            Bin(
                low=round(float(low), digits), high=round(float(high), digits), utterances=len(rows),
                rates=tuple(s.rate for s in chosen),
                intervals=tuple(interval(s, replicates=replicates) for s in chosen),
            )
        )  # fmt: skip
    return result


def bin_chart(parts: Sequence[Bin], *, title: str, unit: str, field: str, names: Sequence[str]) -> str:
    """WER of each bin with its interval as an `<svg>`; a bin is a button that filters the list by `field`.
    names: of the systems, one colour each."""
    tops = [x for b in parts for i in b.intervals for x in (i.high,) if math.isfinite(x)]
    tops += [r for b in parts for r in b.rates if math.isfinite(r)]
    marks = ticks(0.0, 100 * max(tops, default=1.0), 4, outside=True)
    step = (CHART_WIDTH - _LEFT - _RIGHT) / len(parts)

    def height(rate: float) -> float:
        inner = CHART_HEIGHT - _TOP - _BOTTOM
        return CHART_HEIGHT - _BOTTOM - min(100 * rate / max(marks[-1], 1e-9), 1.0) * inner

    out = [svg_text(0, 14, title, TITLE)]
    for mark in marks:
        y = height(mark / 100)
        out += [
            svg_line((_LEFT, CHART_WIDTH - _RIGHT), (y, y), "grid"),
            svg_text(_LEFT - 6, y + 4, f"{mark:g}", END),
        ]
    if len(names) > 1:
        for k, name in enumerate(names):
            place = f'{END} style="fill:{COLOURS[k % len(COLOURS)]}"'
            out.append(svg_text(CHART_WIDTH - _RIGHT - 130 * (len(names) - 1 - k), 14, name[:20], place))
    for k, b in enumerate(parts):
        middle = _LEFT + (k + 0.5) * step
        label = f"{b.low:g} to {b.high:g} {unit}: " + ", ".join(
            f"{percent(r)} % {span(i)}" for r, i in zip(b.rates, b.intervals, strict=True)
        )
        out.append(
            f'<g class="pick" role="button" tabindex="0" data-range="{field}" data-low="{b.low!r}" '
            f'data-high="{b.high!r}" data-last="{int(k == len(parts) - 1)}" aria-label="{escaped(label)}">'
            f"<title>{escaped(label)}, {b.utterances} utterances</title>"
            f'<rect x="{middle - step / 2:.1f}" y="{_TOP}" width="{step:.1f}" '
            f'height="{CHART_HEIGHT - _TOP}" class="target"/>'
        )
        out += [_point(middle + 9 * (n - (len(names) - 1) / 2), b, n, height) for n in range(len(names))]
        out.append(
            svg_text(middle, CHART_HEIGHT - _BOTTOM + 15, f"{b.low:g}–{b.high:g}".replace("-", "−"), MIDDLE)
        )
        out.append(
            svg_text(middle, CHART_HEIGHT - _BOTTOM + 29, f"n={b.utterances}", f'{MIDDLE} class="count"')
        )
        out.append("</g>")
    out.append(svg_text(CHART_WIDTH - _RIGHT, CHART_HEIGHT - 2, unit, END))
    drawn = svg(out, CHART_WIDTH, CHART_HEIGHT, "")
    return drawn.replace('role="img"', f'role="group" aria-label="{escaped(title)}"', 1)


def _point(x: float, b: Bin, number: int, height: Callable[[float], float]) -> str:
    """The WER of one system in a bin: a dot, and its interval as a line."""
    rate, bounds, colour = b.rates[number], b.intervals[number], COLOURS[number % len(COLOURS)]
    if not math.isfinite(rate):
        return ""
    drawn = ""
    if math.isfinite(bounds.low) and math.isfinite(bounds.high):
        low, high = height(bounds.low), height(bounds.high)
        ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
        drawn = f'<line {ends} stroke="{colour}" stroke-width="2"/>'
    return drawn + f'<circle cx="{x:.1f}" cy="{height(rate):.1f}" r="4" fill="{colour}"/>'
