"""What a session says: one class for each kind of event. Times are seconds from its first sample."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from maya.decode.hypothesis import Word


class LiveEvent:
    """The base of events."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """Its fields and its `type`, such as speech_started: for JSON."""
        kind = re.sub("(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        return {"type": kind} | dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechStarted(LiveEvent):
    """The voice detector hears speech from `seconds` on."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechEnded(LiveEvent):
    """The voice detector hears no speech any more; the last was at `seconds`."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial(LiveEvent):
    """The text of the open segment so far. stable: its first characters that will not change."""

    segment: int
    text: str
    stable: int
    start: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Final(LiveEvent):
    """A segment that will not change. confidence: of its words, their mean; None where there is none.

    labels, tracks, check: what the model's heads say of it, see maya.serve.segments.
    reason: "pause" (silence), "length" (longer than allowed), "flush" (asked for) or "end" (of the audio).
    """

    segment: int
    text: str
    start: float
    end: float
    reason: str
    words: list[Word] = field(default_factory=list)
    confidence: float | None = None
    language: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    tracks: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Flushed(LiveEvent):
    """All audio before the request `marker` is in the events before this one."""

    marker: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended(LiveEvent):
    """The last event of a session, which took `seconds` of audio."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed(LiveEvent):
    """The session stopped because of an error, which `message` explains. It is the last event."""

    message: str
