"""What the writers of all formats share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from maya.config import config
from maya.decode.hypothesis import Hypothesis, TextSegment, Word
from maya.decode.transcription import Transcript
from maya.errors import MayaError
from maya.ranges import Count, PosFloat, Range


@config
class FormatConfig:
    """How subtitles are divided, and the name of the model for JSON.

    line_columns: width of a line of subtitles; a wide character, such as a Chinese one, counts as two.
    lines: of a subtitle at most. words_per_line: words of a subtitle, which then has one line; 0: as many as
    the width allows. max_seconds: of a subtitle.
    """

    model: str = ""
    line_columns: Annotated[int, Range(min=8)] = 42
    lines: Annotated[int, Range(min=1)] = 2
    words_per_line: Count = 0
    max_seconds: PosFloat = 7.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedText:
    """A text from start to end, in seconds, start <= end."""

    text: str
    start: float
    end: float
    confidence: float | None = None


def hypothesis_of(transcript: Transcript, name: str) -> Hypothesis:
    """The hypothesis of a transcript. name: the format, for the message. Raises MayaError if it has none."""
    if transcript.hypothesis is None:
        raise MayaError(
            f"{transcript.id}: {name} holds text, and this model writes none; choose --format txt, json or "
            "jsonl"
        )
    return transcript.hypothesis


def timed(
    items: Sequence[Word] | Sequence[TextSegment], transcript: Transcript, name: str
) -> list[TimedText]:
    """Words or segments with their times. Raises MayaError where one of them has none."""
    texts = []
    for item in items:
        if item.start is None or item.end is None:
            raise MayaError(
                f"{transcript.id}: {name} needs times, and this decoding method gives none; choose --format "
                "txt, json or jsonl, or another --method, such as ctc"
            )
        texts.append(TimedText(text=item.text, start=item.start, end=item.end, confidence=item.confidence))
    return texts


def words_in_order(transcript: Transcript, name: str) -> list[TimedText]:
    """The words with times, in order of time, none of which begins before the one before it ends."""
    words = timed(hypothesis_of(transcript, name).words, transcript, name)
    ordered: list[TimedText] = []
    for word in words:
        start = max(word.start, ordered[-1].end if ordered else 0.0)
        ordered.append(
            TimedText(text=word.text, start=start, end=max(start, word.end), confidence=word.confidence)
        )
    return ordered
