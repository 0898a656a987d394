"""Transcripts written in the format of the file's name."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.files import writing
from maya.score.files.transcript import TranscriptRow

WRITABLE = ("kaldi", "trn", "ctm", "stm", "rttm", "json")


def write_transcripts(rows: Iterable[TranscriptRow], path: Path, kind: str, refs: dict[str, str]) -> None:
    """Write transcripts as Kaldi text, trn, CTM, STM, RTTM or JSON lines with words.

    refs: reference by id, added to JSON lines. Raises MayaError for another format, for CTM without times of
    words, and for STM or RTTM without a speaker and times of segments.
    """
    if kind not in WRITABLE:
        names = ".txt, .trn, .ctm, .stm, .rttm or .jsonl"
        raise MayaError(f"{path}: transcripts are written as {names}, not as {kind}")
    lines = [line for row in rows for line in _lines(row, kind, refs)]
    with writing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _lines(row: TranscriptRow, kind: str, refs: dict[str, str]) -> list[str]:
    if kind == "kaldi":
        return [f"{row.id or row.recording} {row.text}".rstrip()]
    if kind == "trn":
        return [f"{row.text} ({row.id or row.recording})".lstrip()]
    if kind == "json":
        return [json.dumps(_values(row, refs), ensure_ascii=False)]
    if kind in ("stm", "rttm"):
        return [_segment(row, kind)]
    lines = []
    for word in row.words:
        if word.start is None or word.end is None:
            raise MayaError(f"{row.id or row.recording}: CTM needs the times of words; write .txt or .jsonl")
        place = f"{row.recording or row.id} {row.channel or '1'} {word.start:.3f} {word.end - word.start:.3f}"
        confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
        lines.append(f"{place} {word.text}{confidence}")
    return lines


def _segment(row: TranscriptRow, kind: str) -> str:
    name, channel = row.recording or row.id, row.channel or "1"
    if row.start is None or row.end is None or not row.speaker:
        raise MayaError(f"{name}: {kind.upper()} needs the speaker and the times of each segment")
    if kind == "stm":
        return f"{name} {channel} {row.speaker} {row.start:.3f} {row.end:.3f} {row.text}".rstrip()
    seconds = row.end - row.start
    return f"SPEAKER {name} {channel} {row.start:.3f} {seconds:.3f} <NA> <NA> {row.speaker} <NA> <NA>"


def _values(row: TranscriptRow, refs: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {"id": row.id or row.recording, "text": row.text}
    if row.id in refs:
        values["ref"] = refs[row.id]
    facts = {
        "language": row.language,
        "speaker": row.speaker,
        "duration": row.seconds or None,
        "snr": row.snr,
    }
    values |= {name: value for name, value in facts.items() if value is not None}
    values["words"] = [
        {name: value for name, value in asdict(word).items() if value is not None} for word in row.words
    ]
    return values
