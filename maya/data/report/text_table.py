"""What a corpus holds, by language and part, as a table for a terminal; maya.data.report.page shows more."""

from collections.abc import Mapping, Sequence
from typing import Any

from maya.data.corpus.manifest import PARTS


def table(summary: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Mapping[str, Any]]) -> str:
    """`Statistics.summary` with the way each language was split, as lines of text."""
    head = ["language", "utts", "hours", "speakers", "texts", "chars", *PARTS, "split", "shared texts"]
    rows = [head]
    for language, n in summary.items():
        facts = splits.get(language, {})
        overlap = facts.get("text_overlap", {})
        rows.append(
            [
                language,
                str(n["utterances"]),
                f"{n['hours']:.2f}",
                str(n["speakers"]),
                str(n["texts"]),
                str(n["characters"]),
                *(str(n["parts"][part]["utterances"]) for part in PARTS),
                str(facts.get("method", "")),
                " ".join(f"{part} {share:.0%}" for part, share in overlap.items() if share) or "none",
            ]
        )
    rows.append(
        [
            "all",
            str(sum(n["utterances"] for n in summary.values())),
            f"{sum(n['hours'] for n in summary.values()):.2f}",
            str(sum(n["speakers"] for n in summary.values())),
            str(sum(n["texts"] for n in summary.values())),
            str(sum(n["characters"] for n in summary.values())),
            *(str(sum(n["parts"][part]["utterances"] for n in summary.values())) for part in PARTS),
            "",
            "",
        ]
    )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines with the cells of each column under one another; all but the first and last two to the right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    left_aligned = {0, len(widths) - 1, len(widths) - 2}
    lines = []
    for row in rows:
        cells = [v.ljust(widths[c]) if c in left_aligned else v.rjust(widths[c]) for c, v in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
