"""Labels that list names with times, such as "0.32-0.51 laugh; 1.2-1.9 cough"."""

import re
from collections.abc import Iterable

from maya.errors import MayaError

NO_EVENT = "none"
_SPAN = re.compile(r"(?:([0-9.]+)-([0-9.]+) )?(\S.*)")


def events_in(value: str | None) -> list[tuple[str, float, float]]:
    """(class, start, end) of a label's events. Raises MayaError for text that is none."""
    events = []
    for item in (value or NO_EVENT).split(";"):
        match = _SPAN.fullmatch(item.strip())
        if match is None:
            raise MayaError(
                f"the label {value!r} is no list of events such as '0.32-0.51 laugh; 1.2-1.9 cough'"
            )
        start, end, name = match.groups()
        if name != NO_EVENT:
            events.append((name, float(start or 0.0), float(end or "inf")))
    return events


def label_of(events: Iterable[tuple[str, float, float]]) -> str:
    """The label of (name, start, end), times in seconds."""
    return "; ".join(f"{start:.3f}-{end:.3f} {name}" for name, start, end in events) or NO_EVENT
