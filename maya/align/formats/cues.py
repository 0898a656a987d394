"""Subtitles out of words: what is shown at once, from when to when, in how many lines."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from maya.align.formats.base import FormatConfig, TimedText, timed, words_in_order
from maya.decode.hypothesis import TextSegment
from maya.decode.transcription import Transcript
from maya.decode.words import join_words

_LEAST_MS = 300  # a shorter subtitle cannot be read; it stays longer where nothing follows
_PAUSE_SECONDS = 0.1  # a cut in the middle is worth as much as a pause that is so much longer


@dataclass(frozen=True, kw_only=True, slots=True)
class Cue:
    """Lines of text from start_ms to end_ms, start_ms < end_ms."""

    lines: tuple[str, ...]
    start_ms: int
    end_ms: int


def cues(transcript: Transcript, cfg: FormatConfig, name: str) -> list[Cue]:
    """The subtitles of a transcript, in order and without overlap. name: of the format, for messages.

    Each segment begins a new subtitle. One that is too long, in columns or in seconds, is divided at its
    longest pause, with a preference for the middle. Texts are not changed. Raises MayaError for a transcript
    without times.
    """
    words = words_in_order(transcript, name)
    assert transcript.hypothesis is not None
    groups: list[list[TimedText]] = []
    for segment in _word_groups(words, transcript.hypothesis.segments):
        groups += _by_count(segment, cfg.words_per_line) if cfg.words_per_line else _divided(segment, cfg)
    return _in_milliseconds([(_lines(group, cfg), group[0].start, group[-1].end) for group in groups])


def columns(text: str) -> int:
    """The width of a text: marks above and below letters take no column, wide characters two."""
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me", "Cf") else 2
        if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )  # fmt: skip


def _word_groups(words: list[TimedText], segments: Sequence[TextSegment]) -> Iterator[list[TimedText]]:
    """The words of each segment; all of them as one group if the segments hold other words."""
    counts = [len(segment.words) for segment in segments]
    if sum(counts) != len(words):
        counts = [len(words)]
    begin = 0
    for count in counts:
        if count:
            yield words[begin : begin + count]
        begin += count


def _by_count(words: list[TimedText], count: int) -> list[list[TimedText]]:
    return [words[i : i + count] for i in range(0, len(words), count)]


def _divided(words: list[TimedText], cfg: FormatConfig) -> list[list[TimedText]]:
    """Groups that fit into a subtitle. A single word always does."""
    groups, waiting = [], [words]
    while waiting:
        group = waiting.pop()
        seconds = group[-1].end - group[0].start
        if len(group) == 1 or (seconds <= cfg.max_seconds and len(_lines(group, cfg)) <= cfg.lines):
            groups.append(group)
            continue
        cut = _cut(group)
        waiting += [group[cut:], group[:cut]]
    return groups


def _cut(words: list[TimedText]) -> int:
    """Where to divide words: the number of those before the cut."""
    middle = (words[0].start + words[-1].end) / 2
    half = max(middle - words[0].start, 1e-9)

    def worth(i: int) -> float:
        pause = words[i].start - words[i - 1].end
        centre = (words[i].start + words[i - 1].end) / 2
        return pause + _PAUSE_SECONDS * (1 - abs(centre - middle) / half)

    return max(range(1, len(words)), key=worth)


def _lines(words: list[TimedText], cfg: FormatConfig) -> tuple[str, ...]:
    """The words in as few lines as the width allows, of lengths as equal as that number allows."""
    texts = [word.text for word in words]
    if cfg.words_per_line:
        return (join_words(texts),)
    lines = _filled(texts, cfg.line_columns)
    if len(lines) > 1:
        for width in range(max(8, columns(join_words(texts)) // len(lines)), cfg.line_columns):
            if len(narrower := _filled(texts, width)) == len(lines):
                return tuple(narrower)
    return tuple(lines)


def _filled(texts: list[str], width: int) -> list[str]:
    lines: list[list[str]] = [[]]
    for text in texts:
        if lines[-1] and columns(join_words([*lines[-1], text])) > width:
            lines.append([])
        lines[-1].append(text)
    return [join_words(line) for line in lines]


def _in_milliseconds(groups: list[tuple[tuple[str, ...], float, float]]) -> list[Cue]:
    """Cues with start < end <= start of the next. One too short to be read stays until the next begins."""
    shown: list[Cue] = []
    for i, (lines, start, end) in enumerate(groups):
        start_ms = max(round(1000 * start), shown[-1].end_ms if shown else 0)
        end_ms = max(round(1000 * end), start_ms + 1)
        following = round(1000 * groups[i + 1][1]) if i + 1 < len(groups) else start_ms + _LEAST_MS
        end_ms = max(end_ms, min(start_ms + _LEAST_MS, following))
        shown.append(Cue(lines=lines, start_ms=start_ms, end_ms=end_ms))
    return shown


def segments_in_order(transcript: Transcript, name: str) -> list[TimedText]:
    """The segments with times, none of which begins before the one before it ends."""
    assert transcript.hypothesis is not None
    ordered: list[TimedText] = []
    for segment in timed(transcript.hypothesis.segments, transcript, name):
        start = max(segment.start, ordered[-1].end if ordered else 0.0)
        ordered.append(TimedText(text=segment.text, start=start, end=max(start, segment.end)))
    return ordered
