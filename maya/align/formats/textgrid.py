"""Praat's TextGrid, through praatio."""

from typing import Any

from maya.align.formats.base import FormatConfig, TimedText, hypothesis_of, words_in_order
from maya.align.formats.cues import segments_in_order
from maya.decode.transcription import Transcript

_LEAST_SECONDS = 0.001  # Praat allows no interval without length


def textgrid(transcript: Transcript, cfg: FormatConfig) -> str:
    """The tiers "words" and "segments" over the whole recording. An interval of less than a millisecond is
    lengthened to that, or left out where the next one begins at once."""
    from praatio.utilities.textgrid_io import getTextgridAsStr  # noqa: PLC0415  only this format needs it

    hypothesis_of(transcript, "textgrid")
    tiers = {
        "words": words_in_order(transcript, "textgrid"),
        "segments": segments_in_order(transcript, "textgrid"),
    }
    total = max(transcript.seconds, _LEAST_SECONDS, *(i.end for items in tiers.values() for i in items))
    span: dict[str, Any] = {"xmin": 0.0, "xmax": total}
    rows = [
        {"class": "IntervalTier", "name": name, "entries": _intervals(items, total)} | span
        for name, items in tiers.items()
    ]
    return str(getTextgridAsStr(span | {"tiers": rows}, "long_textgrid", includeBlankSpaces=True))


def _intervals(items: list[TimedText], total: float) -> list[tuple[float, float, str]]:
    intervals: list[tuple[float, float, str]] = []
    for i, item in enumerate(items):
        limit = items[i + 1].start if i + 1 < len(items) else total
        end = max(item.end, min(item.start + _LEAST_SECONDS, limit))
        if end - item.start >= _LEAST_SECONDS / 2 and item.text:
            intervals.append((item.start, end, item.text))
    return intervals
