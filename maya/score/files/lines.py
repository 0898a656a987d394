"""Readers of transcripts in lines of fields: Kaldi text, trn, CTM, STM and RTTM."""

import re
from collections.abc import Iterator
from pathlib import Path

from maya.data.corpus.manifest import read_lines
from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.score.files.transcript import TranscriptRow

IGNORED = "ignore_time_segment_in_scoring"
_TRN = re.compile(r"^(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*$")
_COMMENT = ";;"
# SCTK's notation for several references, { a / b }.
_ALTERNATIVES = re.compile(r"(?:^|\s)\{\s.*\s/\s.*\s\}(?:\s|$)")


def read_kaldi_text(path: Path) -> list[TranscriptRow]:
    """Lines `ID WORD WORD ...`; an id alone is an empty text."""
    rows = []
    for line, _ in _lines(path):
        id, _, text = line.strip().partition(" ")
        rows.append(TranscriptRow(id=id, text=text.strip()))
    return rows


def read_trn(path: Path) -> list[TranscriptRow]:
    """Lines `WORD WORD ... (ID)`. Raises MayaError for alternatives in braces."""
    rows = []
    for line, where in _lines(path, comments=True):
        match = _TRN.match(line)
        if match is None:
            raise MayaError(f"{where}: no utterance id in parentheses at the end of the line")
        rows.append(TranscriptRow(id=match["id"], text=_plain(match["text"], where)))
    return rows


def read_ctm(path: Path) -> list[TranscriptRow]:
    """The words of each recording and channel, by time: a transcript for each of them."""
    words: dict[tuple[str, str], list[Word]] = {}
    for line, where in _lines(path, comments=True):
        fields = line.split()
        if len(fields) not in (5, 6):
            raise MayaError(f"{where}: a CTM line has 5 or 6 fields, not {len(fields)}")
        start, seconds = _seconds(fields[2], where), _seconds(fields[3], where)
        confidence = _number(fields[5], where) if len(fields) == 6 and fields[5].lower() != "na" else None
        word = Word(text=fields[4], start=start, end=start + seconds, confidence=confidence)
        words.setdefault((fields[0], fields[1]), []).append(word)
    rows = []
    for (recording, channel), own in words.items():
        own.sort(key=lambda word: word.start or 0.0)
        rows.append(
            TranscriptRow(
                id="", recording=recording, channel=channel, words=tuple(own), start=own[0].start,
                end=max(word.end or 0.0 for word in own), text=" ".join(word.text for word in own),
            )
        )  # fmt: skip
    return rows


def read_stm(path: Path) -> list[TranscriptRow]:
    """The segments of recordings. Raises MayaError for alternatives in braces."""
    rows = []
    for line, where in _lines(path, comments=True):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            raise MayaError(f"{where}: an STM line has at least 5 fields, not {len(fields)}")
        recording, channel, speaker = fields[:3]
        start, end = _seconds(fields[3], where), _seconds(fields[4], where)
        text = fields[5] if len(fields) == 6 else ""
        if text.startswith("<") and ">" in text:
            text = text[text.index(">") + 1 :]
        ignored = text.strip().lower() == IGNORED
        rows.append(
            TranscriptRow(
                id="", recording=recording, channel=channel, speaker=speaker, start=start, end=end,
                text="" if ignored else _plain(text.strip(), where), seconds=end - start, ignored=ignored,
            )
        )  # fmt: skip
    return rows


def read_rttm(path: Path) -> list[TranscriptRow]:
    """Who spoke when: the lines of type SPEAKER, without text. Others, such as SPKR-INFO, are left out."""
    rows = []
    for line, where in _lines(path, comments=True):
        fields = line.split()
        if fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise MayaError(f"{where}: an RTTM line has at least 8 fields, not {len(fields)}")
        start, seconds = _seconds(fields[3], where), _seconds(fields[4], where)
        rows.append(
            TranscriptRow(
                id="", recording=fields[1], channel=fields[2], speaker=fields[7], start=start,
                end=start + seconds, text="", seconds=seconds,
            )
        )  # fmt: skip
    return rows


def _lines(path: Path, *, comments: bool = False) -> Iterator[tuple[str, str]]:
    """The lines that are not empty, without those of comments, and where each is."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip() and not (comments and line.lstrip().startswith(_COMMENT)):
            yield line, f"{path}:{number}"


def _plain(text: str, where: str) -> str:
    if _ALTERNATIVES.search(text):
        raise MayaError(f"{where}: alternatives in braces are not supported; write one text for each segment")
    return text


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MayaError(f"{where}: {text!r} is not a number") from None


def _seconds(text: str, where: str) -> float:
    value = _number(text, where)
    if not 0 <= value < float("inf"):
        raise MayaError(f"{where}: {text} is not a time in seconds")
    return value
