"""What a corpus holds, by language and part, as numbers and as a table for people."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lhotse.cut import Cut

from maya.data.manifest import PARTS
from maya.text.languages import LANGUAGES, script_share

_FOREIGN = 0.5  # a text with less of its letters in its language's script is counted as foreign


def describe(cuts_by_part: Mapping[str, Iterable[Cut]]) -> dict[str, dict[str, Any]]:
    """Per language: hours, utterances, speakers, characters, distinct texts, longest utterance, texts
    mostly in another script, and hours and utterances of each part."""
    seen: dict[str, dict[str, Any]] = defaultdict(_empty)
    for part, cuts in cuts_by_part.items():
        for cut in cuts:
            supervision = cut.supervisions[0]
            numbers = seen[supervision.language]
            numbers["utterances"] += 1
            numbers["seconds"] += cut.duration
            numbers["longest"] = max(numbers["longest"], cut.duration)
            numbers["speakers"].add(supervision.speaker)
            numbers["texts"].add(supervision.text)
            numbers["characters"] += len(supervision.text)
            numbers["alphabet"].update(supervision.text)
            if supervision.language in LANGUAGES:
                numbers["foreign"] += script_share(supervision.text, supervision.language) < _FOREIGN
            numbers["parts"][part]["utterances"] += 1
            numbers["parts"][part]["seconds"] += cut.duration
    return {language: _summary(seen[language]) for language in sorted(seen)}


def table(summary: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Mapping[str, Any]]) -> str:
    """`describe`'s numbers with the way each language was split, as lines of text."""
    head = ["language", "utts", "hours", "speakers", "texts", "chars", *PARTS, "split", "shared texts"]
    rows = [head]
    for language, n in summary.items():
        how = splits.get(language, {})
        overlap = how.get("text_overlap", {})
        rows.append(
            [
                language,
                str(n["utterances"]),
                f"{n['hours']:.2f}",
                str(n["speakers"]),
                str(n["texts"]),
                str(n["characters"]),
                *(str(n["parts"][part]["utterances"]) for part in PARTS),
                str(how.get("method", "")),
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
    left = {0, len(widths) - 1, len(widths) - 2}
    lines = []
    for row in rows:
        cells = [v.ljust(widths[c]) if c in left else v.rjust(widths[c]) for c, v in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _empty() -> dict[str, Any]:
    return {
        "utterances": 0,
        "seconds": 0.0,
        "longest": 0.0,
        "speakers": set(),
        "texts": set(),
        "characters": 0,
        "alphabet": set(),
        "foreign": 0,
        "parts": {part: {"utterances": 0, "seconds": 0.0} for part in PARTS},
    }


def _summary(numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        "utterances": numbers["utterances"],
        "hours": numbers["seconds"] / 3600,
        "longest_seconds": numbers["longest"],
        "speakers": len(numbers["speakers"]),
        "texts": len(numbers["texts"]),
        "characters": numbers["characters"],
        "alphabet": len(numbers["alphabet"]),
        "foreign_script": numbers["foreign"],
        "parts": {
            part: {"utterances": n["utterances"], "hours": n["seconds"] / 3600}
            for part, n in numbers["parts"].items()
        },
    }
