"""The frame and the style of HTML report pages, and text tables for a terminal.

A page fetches nothing, so it opens from a mail or a cluster's disk.
"""

import html
from collections.abc import Collection, Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #8883; }
th:first-child, td:first-child, .left { text-align: left; }
tr.total { font-weight: 600; } .note { opacity: .7; font-size: .9em; margin: .2rem 0; }
details { border-bottom: 1px solid #8883; padding: .35rem 0; } summary { cursor: pointer; }
svg text { fill: currentColor; font-size: 12px; } svg text.title { font-weight: 600; }
svg .grid { stroke: #8883; }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A page with a title and these parts, without the empty ones. style: CSS after that of all pages."""
    name = html.escape(title)
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}</title><style>{STYLE}{style.lstrip()}</style></head><body>",
        f"<h1>{name}</h1>",
        *parts,
        "</body></html>",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def columns(rows: Sequence[Sequence[str]], left: Collection[int] | None = None) -> list[str]:
    """Lines with the cells of each column under one another. left: numbers of the columns that are aligned to
    the left; by default the first and the last two."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    if left is None:
        left = {0, len(widths) - 1, len(widths) - 2}
    lines = []
    for row in rows:
        cells = [v.ljust(widths[c]) if c in left else v.rjust(widths[c]) for c, v in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines
