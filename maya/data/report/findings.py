"""Dropped, flagged and broken utterances, counted by reason and language, with examples."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from maya.data.corpus.manifest import Problem
from maya.data.measure.reasons import MEANING

Kind = Literal["broken", "dropped", "flagged"]


class Findings:
    """Counts, and the first `examples` of each reason and language."""

    def __init__(self, examples: int = 3) -> None:
        self._most = examples
        self._counts: Counter[tuple[Kind, str, str]] = Counter()  # by kind, reason, language
        self._examples: dict[tuple[Kind, str, str], list[Problem]] = defaultdict(list)

    def add(self, kind: Kind, problems: Iterable[Problem]) -> None:
        for problem in problems:
            key = kind, problem.reason, problem.language
            self._counts[key] += 1
            if len(self._examples[key]) < self._most:
                self._examples[key].append(problem)

    def counts(self, kind: Kind) -> dict[str, dict[str, int]]:
        """By reason and language, in order."""
        result: dict[str, dict[str, int]] = {}
        for (own, reason, language), count in sorted(self._counts.items()):
            if own == kind:
                result.setdefault(reason, {})[language] = count
        return result

    def ids(self) -> set[str]:
        """The ids of the examples, whose texts `as_json` shows."""
        return {problem.id for examples in self._examples.values() for problem in examples}

    def as_json(self, texts: Mapping[str, str]) -> list[dict[str, Any]]:
        """An object for each reason, dropped ones first. texts: as published, by id, of `ids()`."""
        objects: dict[tuple[Kind, str], dict[str, Any]] = {}
        for key, count in sorted(self._counts.items()):
            kind, reason, language = key
            result = objects.setdefault((kind, reason), {"kind": kind, "reason": reason, "languages": {}})
            examples = [
                {"id": item.id, "text": texts.get(item.id, ""), "detail": item.detail, "where": item.where}
                for item in self._examples[key]
            ]
            result["languages"][language] = {"count": count, "examples": examples}
        return list(objects.values())


def findings_text(findings: Sequence[Mapping[str, Any]]) -> str:
    """`Findings.as_json` for a terminal: counts by language, below them the examples; "" for none."""
    lines = []
    for finding in findings:
        languages, reason = finding["languages"], finding["reason"]
        counts = {language: facts["count"] for language, facts in languages.items()}
        meaning = f" ({MEANING[reason]})" if reason in MEANING else ""
        lines.append(f"{finding['kind']} {sum(counts.values())} {reason}{meaning}")
        lines.append("  " + ", ".join(f"{language or '?'} {count}" for language, count in counts.items()))
        examples = (example for facts in languages.values() for example in facts["examples"])
        lines += [f"    {_shown(example['id'])}: {_shown(example['detail'])}" for example in examples]
    return "\n".join(lines)


def _shown(text: str) -> str:
    """Text without characters that move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
