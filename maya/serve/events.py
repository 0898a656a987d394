"""What a session says: one class for each kind of event. Times are seconds from its first sample."""

from dataclasses import dataclass, field

from maya.decode.hypothesis import Word


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechStarted:
    """The voice detector hears speech from `seconds` on."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechEnded:
    """The voice detector hears no speech any more; the last was at `seconds`."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """The text of the open segment so far. stable: its first characters that will not change."""

    segment: int
    text: str
    stable: int
    start: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """A segment that will not change. confidence: of its words, their mean; None where there is none.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Flushed:
    """All audio before the request `marker` is in the events before this one."""

    marker: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The last event of a session, which took `seconds` of audio."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The session stopped because of an error, which `message` explains. It is the last event."""

    message: str


Event = SpeechStarted | SpeechEnded | Partial | Final | Flushed | Ended | Failed
