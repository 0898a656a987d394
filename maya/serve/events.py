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

    speaker: of most of it, where speakers are told apart; its words have theirs.
    labels, tracks, check: what the model's heads say of it, see maya.serve.segments. warnings: a sentence for
    each model that should have voted on its words and could not.
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
    speaker: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    tracks: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flushed(LiveEvent):
    """All audio before the request `marker` is in the events before this one."""

    marker: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation(LiveEvent):
    """A final segment in another language; `message` says why there is no text, if there is none."""

    segment: int
    language: str
    text: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SayStarted(LiveEvent):
    """The audio of a text follows, at `rate` Hz. turn: grows when speech is stopped."""

    id: str
    rate: int
    turn: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SayAudio(LiveEvent):
    """Audio of the text that is being spoken: mono, 16-bit integers, little-endian."""

    pcm: bytes
    turn: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SayEnded(LiveEvent):
    """A text was spoken ("end"), or not to its end: "barge_in" (the user speaks), "stop" (asked for),
    "session" (its end), or "error", which `message` explains."""

    id: str
    reason: str
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended(LiveEvent):
    """The last event of a session, which took `seconds` of audio."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed(LiveEvent):
    """The session stopped because of an error, which `message` explains. It is the last event."""

    message: str
