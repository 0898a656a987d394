"""Suspect utterances, and sorting utterances by what is suspect about them.

`probe` drops an utterance that cannot be used. A suspect utterance is kept and written to flagged.jsonl with
the reason, unless the user wants it dropped for that reason.
"""

from collections.abc import Iterable, Mapping, Sequence

from maya.data.corpus.manifest import Problem
from maya.data.measure.entry import Entry
from maya.errors import MayaError

Finding = tuple[str, str]  # reason, detail


def problem(entry: Entry, finding: Finding) -> Problem:
    """A finding about an utterance, with its name and place."""
    reason, detail = finding
    return Problem(id=entry.id, language=entry.language, reason=reason, detail=detail, where=entry.where)


def check_drop(drop: Iterable[str], reasons: Iterable[str], option: str) -> None:
    """Raise MayaError if `drop`, the value of `option`, contains an unknown reason."""
    reasons = list(reasons)
    if unknown := [reason for reason in drop if reason not in reasons]:
        raise MayaError(f"{option} has no reason {unknown[0]!r}; expected some of {', '.join(reasons)}")


def sort_out(
    entries: Sequence[Entry], findings: Mapping[str, Sequence[Finding]], drop: Sequence[str]
) -> tuple[list[Entry], list[Problem], list[Problem]]:
    """(entries that are kept, in order; the flags of these; the entries dropped for a reason in `drop`, each
    with the first such reason). findings: by id."""
    kept: list[Entry] = []
    flags: list[Problem] = []
    dropped: list[Problem] = []
    for entry in entries:
        problems = [problem(entry, finding) for finding in findings[entry.id]]
        if fatal := [item for item in problems if item.reason in drop]:
            dropped.append(fatal[0])
        else:
            kept.append(entry)
            flags += problems
    return kept, flags, dropped
