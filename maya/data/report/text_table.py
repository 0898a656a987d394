"""Statistics by language and part as a table for a terminal; maya.data.report.page shows more."""

from collections.abc import Mapping, Sequence
from typing import Any

from maya.data.corpus.manifest import PARTS
from maya.pages import columns


def table(summary: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Mapping[str, Any]]) -> str:
    """`Statistics.summary` with the way each language was split, as lines of text."""
    rows = [["language", "utts", "hours", "speakers", "texts", "chars", *PARTS, "split", "shared texts"]]
    for language, numbers in summary.items():
        facts = splits.get(language, {})
        overlap = facts.get("text_overlap", {})
        shared = " ".join(f"{part} {share:.0%}" for part, share in overlap.items() if share)
        rows.append([language, *_sums([numbers]), str(facts.get("method", "")), shared or "none"])
    return "\n".join(columns([*rows, ["all", *_sums(list(summary.values())), "", ""]]))


def _sums(languages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Utterances, hours, speakers, texts, characters, and utterances of each part, of these languages."""
    hours = sum(n["hours"] for n in languages)
    utterances, *counts = (
        sum(n[name] for n in languages) for name in ("utterances", "speakers", "texts", "characters")
    )
    parts = [sum(n["parts"][part]["utterances"] for n in languages) for part in PARTS]
    return [str(utterances), f"{hours:.2f}", *map(str, (*counts, *parts))]
