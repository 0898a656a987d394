"""HTML pages and SVG charts without any other file, so that a page opens from a mail or a cluster's disk."""

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

Points = Sequence[tuple[float, float]]

COLOURS = ("#3b7dd8", "#d9703c", "#3f9d63", "#9a5fc0")
WIDTH, HEIGHT = 520, 240  # units of a line chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 28, 34  # margins around its plotted area
_MOST_POINTS = 400  # of a line; more than one point per 1.5 units cannot be seen

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --sub: #9a4a10; --del: #b3261e; --ins: #1d6b3c; }
@media (prefers-color-scheme: dark) { :root { --sub: #f2a679; --del: #ff9a90; --ins: #84d9a4; } }
@media print { :root { color-scheme: light; --sub: #9a4a10; --del: #b3261e; --ins: #1d6b3c; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; }
.left { text-align: left; }
tr.total { font-weight: 600; } td.none { opacity: .65; }
.wide { overflow-x: auto; } .note { opacity: .7; font-size: .9em; margin: .2rem 0; }
.grid3 { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem 1.6rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } .charts svg { flex: 1 1 420px; max-width: 520px; }
svg { width: 100%; max-width: 440px; height: auto; display: block; }
svg text { fill: currentColor; font-size: 12px; } svg text.title { font-weight: 600; }
svg .grid { stroke: var(--line); } svg .limit { stroke: var(--del); stroke-dasharray: 3 3; }
svg .whisker { stroke: #3b7dd8; } svg .median { stroke: #1d3f73; stroke-width: 2; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; } summary { cursor: pointer; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .9em; }
.example { margin: .5rem 0 .5rem 1rem; overflow-wrap: anywhere; } .example p { margin: 0; }
.letters { display: flex; flex-wrap: wrap; gap: 4px; margin: .5rem 0; }
.letters span { border: 1px solid var(--line); border-radius: 4px; padding: 0 6px; }
.letters span { text-align: center; font-size: 1.15em; }
.letters small { display: block; font-size: 10px; opacity: .7; }
.letters .rare { border-color: var(--del); background: #c0392b18; }
.letters .foreign { background: #ffc80030; }
.dropped { color: var(--del); }
.pairs { display: flex; flex-wrap: wrap; gap: 2.5rem; align-items: flex-start; }
.utterance { margin: .7rem 0; } .utterance p { margin: .1rem 0; }
del { color: var(--del); } ins { color: var(--ins); text-decoration: none; border-bottom: 2px solid; }
.sub del { color: var(--sub); } .sub ins { color: var(--sub); }
"""


class Html(str):
    """A piece of HTML, which a table holds as it is; other strings are escaped."""

    __slots__ = ()


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole HTML page with a heading and these parts of HTML; empty parts are left out. style: more CSS."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title><style>{_STYLE}{style}</style></head><body>"
    )
    return "\n".join([head, f"<h1>{escaped(title)}</h1>", *filter(None, parts), "</body></html>"]) + "\n"


def escaped(value: object) -> str:
    """A value as text of a page."""
    return html.escape(str(value))


def html_table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    totals: Iterable[Sequence[object]] = (),
    text_columns: int = 1,
) -> str:
    """A table of any values, escaped unless they are `Html`; `totals` are its last rows, in bold.

    The first `text_columns` are aligned to the left. Integers have commas between thousands; zero is grey.
    """
    titles = "".join(_cell("th", title, place < text_columns) for place, title in enumerate(head))
    lines = [("<tr>", row) for row in rows] + [('<tr class="total">', row) for row in totals]
    body = "\n".join(
        begin + "".join(_cell("td", value, place < text_columns) for place, value in enumerate(row)) + "</tr>"
        for begin, row in lines
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(tag: str, value: object, left_aligned: bool) -> str:
    text = f"{value:,}" if isinstance(value, int) else value if isinstance(value, Html) else escaped(value)
    style = "left" if left_aligned else "none" if isinstance(value, int) and not value else ""
    return f'<{tag} class="{style}">{text}</{tag}>' if style else f"<{tag}>{text}</{tag}>"


def svg(parts: Iterable[str], width: float, height: float, label: str = "") -> str:
    """An `<svg>` element of these elements. label: its text for screen readers."""
    label_text = f' aria-label="{escaped(label)}"' if label else ""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img"{label_text}>' + "".join(parts) + "</svg>"


def svg_text(x: float, y: float, text: object, attributes: str = "") -> str:
    """A text whose baseline starts at (x, y). attributes: of the element, such as its class."""
    start = f'<text x="{round(x, 1):g}" y="{round(y, 1):g}"{attributes and " "}{attributes}>'
    return f"{start}{escaped(text)}</text>"


def svg_line(x: tuple[float, float], y: tuple[float, float], style: str) -> str:
    """A line from (x[0], y[0]) to (x[1], y[1]) of a class of the page's style."""
    (x1, x2), (y1, y2) = x, y
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="{style}"/>'


TITLE, MIDDLE, END = 'class="title"', 'text-anchor="middle"', 'text-anchor="end"'


def line_chart(lines: Mapping[str, Points], *, title: str) -> str:
    """An `<svg>` element with one labelled line per entry against a common axis; "" when there is no point.

    lines: label -> (x, y) points in order of x, finite. The vertical axis starts at zero unless a value is
    negative, so that a small change does not look like a large one.
    """
    drawn = {label: _thinned(points) for label, points in lines.items() if points}
    if not drawn:
        return ""
    every = [p for points in drawn.values() for p in points]
    y_ticks = ticks(min(0.0, *(y for _, y in every)), max(y for _, y in every), 4, outside=True)
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return _LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - y_low) / max(y_high - y_low, 1e-12) * (HEIGHT - _TOP - _BOTTOM)

    out = [svg_text(_LEFT, 16, title, TITLE)]
    for y in y_ticks:
        out.append(svg_line((_LEFT, WIDTH - _RIGHT), (py(y), py(y)), "grid"))
        out.append(svg_text(_LEFT - 6, py(y) + 4, f"{y:g}", END))
    out += [svg_text(px(x), HEIGHT - _BOTTOM + 16, f"{x:g}", MIDDLE) for x in ticks(x_low, x_high, 4)]
    for i, (label, points) in enumerate(drawn.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(points) == 1:
            x, y = points[0]
            out.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{colour}"/>')
        right = WIDTH - _RIGHT - 60 * (len(drawn) - 1 - i)
        out.append(svg_text(right, 16, label, f'{END} style="fill:{colour}"'))
    return svg(out, WIDTH, HEIGHT, title)


def ticks(low: float, high: float, intervals: int = 5, *, outside: bool = False) -> list[float]:
    """Round numbers, evenly spaced, for an axis with about so many intervals: within [low, high], or from at
    or below `low` to at or above `high` with `outside`."""
    if high <= low:
        if not outside:
            return [low]
        high = low + (abs(low) or 1.0)
    raw = (high - low) / intervals
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    slack = 1e-9 if outside else -1e-9  # so that rounding neither adds nor removes a number at the ends
    first, last = (math.floor, math.ceil) if outside else (math.ceil, math.floor)
    return [round(i * step, 12) for i in range(first(low / step + slack), last(high / step - slack) + 1)]


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points, each the mean of its neighbours: no part of the run is hidden."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size == 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def columns(rows: Sequence[Sequence[str]], aligned_left: Collection[int] | None = None) -> list[str]:
    """Lines of text with the cells of each column under one another. aligned_left: numbers of columns, by
    default the first and the last two."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    if aligned_left is None:
        aligned_left = {0, len(widths) - 1, len(widths) - 2}
    lines = []
    for row in rows:
        cells = [v.ljust(widths[c]) if c in aligned_left else v.rjust(widths[c]) for c, v in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines
