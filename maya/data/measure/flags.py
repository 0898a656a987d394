"""What is suspect about an utterance, and sorting utterances by it.

What `probe` finds makes an utterance useless and costs it its place. A finding makes it suspect: it
stays, and is written down with its reason (flagged.jsonl), unless the user wants it dropped for that reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maya.data.corpus.manifest import Dropped
from maya.data.measure.probe import Probed
from maya.errors import MayaError

Finding = tuple[str, str]  # reason, detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """Something a person should look at: `reason` is one word to count by, `detail` a sentence."""

    id: str
    language: str
    reason: str
    detail: str
    where: str


def flag(one: Probed, finding: Finding) -> Flag:
    reason, detail = finding
    return Flag(id=one.row.id, language=one.row.language, reason=reason, detail=detail, where=one.row.where)


def check_drop(drop: Iterable[str], reasons: Iterable[str], option: str) -> None:
    """MayaError where `drop`, the value of `option`, names a reason there is none of."""
    known = list(reasons)
    if unknown := [reason for reason in drop if reason not in known]:
        raise MayaError(f"{option} has no reason {unknown[0]!r}; there are {', '.join(known)}")


def sort_out(
    probed: Sequence[Probed], findings: Mapping[str, Sequence[Finding]], drop: Sequence[str]
) -> tuple[list[Probed], list[Flag], list[Dropped]]:
    """(those kept, in the order they came; the flags of these, in order; those dropped for a reason in
    `drop`, the first of them). findings: by id."""
    kept: list[Probed] = []
    flags: list[Flag] = []
    dropped: list[Dropped] = []
    for one in probed:
        mine = [flag(one, finding) for finding in findings[one.row.id]]
        if fatal := [found for found in mine if found.reason in drop]:
            dropped.append(Dropped(**{name: getattr(fatal[0], name) for name in Flag.__slots__}))
        else:
            kept.append(one)
            flags += mine
    return kept, flags, dropped
