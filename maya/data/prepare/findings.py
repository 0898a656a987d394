"""What was dropped, flagged or found broken, by reason and language, with the first few as examples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from maya.data.corpus.manifest import Dropped
from maya.data.measure.flags import Flag
from maya.data.prepare import audio_checks, data_checks, text_checks

Kind = Literal["broken", "dropped", "flagged"]

_UNUSABLE = {
    "no_transcript": "audio without a text",
    "missing_audio": "no such file",
    "unreadable_text": "the file with the text is not UTF-8",
    "outside_recording": "it begins before its recording, or lies outside of the audio that is there",
    "no_channel": "the file lacks the channel that the corpus names",
    "empty_transcript": "nothing speakable is left of the text",
    "tar_mismatch": "not what the tar holds at that place",
    "unreadable_audio": "damaged, or not audio",
    "silent": "nothing is heard",
    "sample_rate_mismatch": "another sampling rate than the manifest says",
    "duration_mismatch": "another duration than the manifest says",
    "text_too_long": "more text than can be spoken in the time",
    "too_short": "shorter than allowed",
    "too_long": "longer than allowed",
}
MEANING = {
    **_UNUSABLE,
    **audio_checks.REASONS,
    **text_checks.REASONS,
    **text_checks.LEAKS,
    **data_checks.REASONS,
}


class Findings:
    """Counts, and the first `examples` of each reason and language."""

    def __init__(self, examples: int = 3) -> None:
        self._most = examples
        self._found: dict[tuple[Kind, str], dict[str, list[Any]]] = {}  # to language to [count, examples]

    def add(self, kind: Kind, found: Iterable[Dropped | Flag]) -> None:
        for one in found:
            mine = self._found.setdefault((kind, one.reason), {}).setdefault(one.language, [0, []])
            mine[0] += 1
            if len(mine[1]) < self._most:
                mine[1].append(one)

    def ids(self) -> set[str]:
        """Of the examples, whose texts `as_json` is to show."""
        found = (mine for by_language in self._found.values() for mine in by_language.values())
        return {one.id for _, examples in found for one in examples}

    def as_json(self, texts: Mapping[str, str]) -> list[dict[str, Any]]:
        """One entry a reason, what was dropped first. texts: by id, as published, of `ids()` where known."""
        return [
            {
                "kind": kind,
                "reason": reason,
                "languages": {
                    language: {"count": count, "examples": [_example(one, texts) for one in examples]}
                    for language, (count, examples) in sorted(by_language.items())
                },
            }
            for (kind, reason), by_language in sorted(self._found.items())
        ]


def findings_text(findings: Sequence[Mapping[str, Any]]) -> str:
    """`Findings.as_json` for a terminal: counts by language, below them the examples; "" for none."""
    lines = []
    for found in findings:
        counts = {language: mine["count"] for language, mine in found["languages"].items()}
        meaning = f" ({MEANING[found['reason']]})" if found["reason"] in MEANING else ""
        lines.append(f"{found['kind']} {sum(counts.values())} {found['reason']}{meaning}")
        lines.append("  " + ", ".join(f"{language or '?'} {count}" for language, count in counts.items()))
        for mine in found["languages"].values():
            lines += [
                f"    {_shown(example['id'])}: {_shown(example['detail'])}" for example in mine["examples"]
            ]
    return "\n".join(lines)


def _example(one: Dropped | Flag, texts: Mapping[str, str]) -> dict[str, str]:
    return {"id": one.id, "text": texts.get(one.id, ""), "detail": one.detail, "where": one.where}


def _shown(text: str) -> str:
    """Nothing that moves a terminal's cursor or its colours."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
