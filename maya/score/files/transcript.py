"""The record that readers of transcripts return."""

from dataclasses import dataclass
from typing import Literal

from maya.decode.hypothesis import Word

Side = Literal["ref", "hyp"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptRow:
    """What was said or recognised in an utterance, a segment of a recording, or a whole recording.

    id: of the utterance; "" in formats that name recordings. recording, channel: where it is from. start,
    end: seconds into the recording. text: as written. words: with times or confidences, empty where the file
    has none. language: code. seconds: of audio, 0 if not known. snr: dB. ignored: marked as not to be scored.
    """

    id: str
    text: str
    recording: str = ""
    channel: str = ""
    speaker: str | None = None
    language: str | None = None
    start: float | None = None
    end: float | None = None
    words: tuple[Word, ...] = ()
    seconds: float = 0.0
    snr: float | None = None
    ignored: bool = False
