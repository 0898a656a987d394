"""Charts of the report page, as SVG text: bars, histograms, and one strip for each language.

Each is 360 units wide, which a phone shows as it is; wider screens put several beside one another.
"""

import html
import math
from collections.abc import Mapping, Sequence

from maya.data.corpus.manifest import PARTS
from maya.data.report.statistics import Histogram

COLOURS = dict(zip(PARTS, ("#3b7dd8", "#d9703c", "#3f9d63"), strict=True))
WIDTH = 360
_NAME = 78  # units left for the names of rows
_ROW = 20
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MOST_BARS = 40


def part_bars(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    """A bar for each (name, value of each part), the parts one after the other, and the sum as a number."""
    top = max((sum(values.values()) for _, values in rows), default=0.0) or 1.0
    room = WIDTH - _NAME - 62
    out = []
    for place, (name, values) in enumerate(rows):
        y, x = place * _ROW, float(_NAME)
        out.append(_name(name, y))
        for part, value in values.items():
            width = value / top * room
            tip = html.escape(f"{name}, {part}: {number(value)} {unit}")
            out.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{max(width, 0.5 if value else 0):.1f}" height="14" '
                f'fill="{COLOURS.get(part, "#3b7dd8")}"><title>{tip}</title></rect>'
            )
            x += width
        out.append(f'<text x="{x + 5:.1f}" y="{y + 14}">{number(sum(values.values()))} {unit}</text>')
    return _svg(out, len(rows) * _ROW + 4)


def bar_window(histograms: Sequence[Histogram]) -> tuple[int, int, int]:
    """(first bin, last bin + 1, bins to a bar) that show all but the outermost; their edges are the same."""
    low, high = math.inf, 0
    for histogram in (h for h in histograms if h.total):
        cumulated, shown = 0, []
        for place, count in enumerate(histogram.counts):
            cumulated += count
            if count and cumulated > 0.005 * histogram.total:
                shown.append(place)
            if cumulated >= 0.995 * histogram.total:
                break
        low, high = min(low, shown[0]), max(high, shown[-1] + 1)
    if high == 0:
        return 0, 1, 1
    if low < 0.3 * high:
        low = 0  # an axis that nearly begins at zero should
    steps = [s for s in (1, 2, 4, 5, 10, 20, 40, 50, 100) if (high - low) / s <= _MOST_BARS]
    step = steps[0] if steps else 200
    first = int(low) // step * step
    return first, min(first + math.ceil((high - first) / step) * step, len(histograms[0].counts)), step


def histogram_chart(
    histogram: Histogram, title: str, unit: str, window: tuple[int, int, int] | None = None
) -> str:
    """Bars of a histogram; what lies beyond the window is in the outermost bars."""
    first, last, step = window or bar_window([histogram])
    places = range(first, last, step)
    bars = [sum(histogram.counts[p : min(p + step, last)]) for p in places]
    bars[0] += sum(histogram.counts[:first])
    bars[-1] += sum(histogram.counts[last:])
    height, top, low, high = 110, max(bars) or 1, histogram.edges[first], histogram.edges[last]
    room, base = WIDTH - 24, height - 20
    width = room / len(bars)
    out = [f'<text x="12" y="12" class="title">{html.escape(title)}</text>']
    for place, count in enumerate(bars):
        tall = count / top * (base - 22)
        begin = histogram.edges[first + place * step]
        end = histogram.edges[min(first + (place + 1) * step, last)]
        tip = f"{begin:g} to {end:g} {unit}: {count}"
        out.append(
            f'<rect x="{12 + place * width:.1f}" y="{base - tall:.1f}" width="{max(width - 0.8, 0.4):.1f}" '
            f'height="{tall:.1f}" fill="#3b7dd8"><title>{html.escape(tip)}</title></rect>'
        )
    out.append(f'<line x1="12" x2="{WIDTH - 12}" y1="{base}" y2="{base}" class="grid"/>')
    for value in ticks(low, high):
        x = 12 + (value - low) / (high - low) * room
        edge = "start" if x < 20 else "end" if x > WIDTH - 30 else "middle"
        shown = f"{value:g} {unit}" if value == ticks(low, high)[-1] else f"{value:g}"
        out.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="{edge}">{html.escape(shown)}</text>')
    return _svg(out, height, title)


def strips(rows: Sequence[tuple[str, Histogram]], title: str, unit: str, limits: Sequence[float] = ()) -> str:
    """For each name a line from the 5th to the 95th percentile, a box of the middle half, and the median.
    limits: values beyond which utterances are flagged, as dashed lines."""
    quantiles_by_name = [
        (name, [histogram.quantile(q) for q in _QUANTILES]) for name, histogram in rows if histogram.total
    ]
    if not quantiles_by_name:
        return ""
    values = [v for _, quantiles in quantiles_by_name for v in quantiles]
    low, high = min(values), max(values)
    low = 0.0 if 0 < low < 0.4 * high else low
    shown = ticks(low, high)
    step = shown[1] - shown[0] if len(shown) > 1 else 1.0
    low, high = min(low, shown[0]), max(high, shown[-1])
    near = [limit for limit in limits if low - step <= limit <= high + step]
    low, high = min([low, *near]), max([high, *near])
    if high <= low:
        high = low + 1.0
    room, top = WIDTH - _NAME - 44, 20

    def at(value: float) -> float:
        return _NAME + (value - low) / (high - low) * room

    bottom = top + len(quantiles_by_name) * _ROW
    out = [f'<text x="0" y="12" class="title">{html.escape(title)}</text>']
    for value in ticks(low, high):
        x = at(value)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="grid"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{value:g}</text>')
    out.append(f'<text x="{WIDTH}" y="{bottom + 14}" text-anchor="end">{html.escape(unit)}</text>')
    for limit in near:
        out.append(
            f'<line x1="{at(limit):.1f}" x2="{at(limit):.1f}" y1="{top}" y2="{bottom}" class="limit">'
            f"<title>flagged beyond {limit:g} {html.escape(unit)}</title></line>"
        )
    for place, (name, (p5, p25, p50, p75, p95)) in enumerate(quantiles_by_name):
        y = top + place * _ROW
        tip = f"{name}: 5 % below {p5:.3g}, half between {p25:.3g} and {p75:.3g}, 5 % above {p95:.3g} {unit}"
        out += [
            _name(name, y),
            f"<g><title>{html.escape(tip)}</title>"
            f'<line x1="{at(p5):.1f}" x2="{at(p95):.1f}" y1="{y + 10}" y2="{y + 10}" class="whisker"/>'
            f'<rect x="{at(p25):.1f}" y="{y + 5}" width="{max(at(p75) - at(p25), 1.5):.1f}" height="10" '
            'fill="#9dbfec"/>'
            f'<line x1="{at(p50):.1f}" x2="{at(p50):.1f}" y1="{y + 3}" y2="{y + 17}" class="median"/></g>',
            f'<text x="{WIDTH}" y="{y + 14}" text-anchor="end">{number(p50)}</text>',
        ]
    return _svg(out, bottom + 18, title)


def value_bars(rows: Sequence[tuple[str, float]], title: str) -> str:
    """A bar and a number for each name."""
    top, room = max((value for _, value in rows), default=0.0) or 1.0, WIDTH - _NAME - 44
    out = [f'<text x="0" y="12" class="title">{html.escape(title)}</text>']
    for place, (name, value) in enumerate(rows):
        y = 18 + place * _ROW
        width = value / top * room
        out.append(
            _name(name, y) + f'<rect x="{_NAME}" y="{y + 3}" width="{width:.1f}" height="14" fill="#3b7dd8"/>'
            f'<text x="{_NAME + width + 5:.1f}" y="{y + 14}">{number(value)}</text>'
        )
    return _svg(out, 20 + len(rows) * _ROW, title)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`, none beyond."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    return [
        round(i * step, 9) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def _name(name: str, y: float) -> str:
    return f'<text x="{_NAME - 6}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>'


def _svg(parts: Sequence[str], height: float, label: str = "") -> str:
    label_text = f' aria-label="{html.escape(label)}"' if label else ""
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img"{label_text}>' + "".join(parts) + "</svg>"
