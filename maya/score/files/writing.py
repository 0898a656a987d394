"""Transcripts written in the format of the file's name."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.files import writing
from maya.score.files.transcript import TranscriptRow

WRITABLE = ("kaldi", "trn", "ctm", "json")


def write_transcripts(rows: Iterable[TranscriptRow], path: Path, kind: str, refs: dict[str, str]) -> None:
    """Write transcripts as Kaldi text, trn, CTM or JSON lines with words.

    refs: reference by id, added to JSON lines. Raises MayaError for another format, and for CTM without times
    of words.
    """
    if kind not in WRITABLE:
        raise MayaError(f"{path}: transcripts are written as .txt, .trn, .ctm or .jsonl, not as {kind}")
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
    lines = []
    for word in row.words:
        if word.start is None or word.end is None:
            raise MayaError(f"{row.id or row.recording}: CTM needs the times of words; write .txt or .jsonl")
        place = f"{row.recording or row.id} {row.channel or '1'} {word.start:.3f} {word.end - word.start:.3f}"
        confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
        lines.append(f"{place} {word.text}{confidence}")
    return lines


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
