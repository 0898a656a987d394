"""Readers of transcripts in JSON: lines of NeMo, of Maya and of other tools, and lists such as SegLST."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import parse_object, read_lines
from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.score.files.transcript import Side, TranscriptRow

_IDS = ("id", "utt_id", "utterance_id", "key", "audio_filepath")
_TEXTS: dict[Side, tuple[str, ...]] = {
    "ref": ("ref", "reference", "text", "transcription", "sentence", "words"),
    "hyp": ("pred_text", "hyp", "hypothesis", "text", "words"),
}
_LANGUAGES = ("language", "lang", "target_lang")


def read_objects(path: Path, side: Side) -> list[TranscriptRow]:
    """The rows of JSON lines, or of a JSON list. Raises MayaError that names the row at fault."""
    return [_transcript(values, side, where) for values, where in _objects(path)]


def holds_both(path: Path) -> bool:
    """Whether the rows of a JSON file hold references and hypotheses."""
    values, _ = next(_objects(path), ({}, ""))
    refs = "ref" in values or ("text" in values and "pred_text" in values)
    return refs and any(name in values for name in _TEXTS["hyp"])


def _objects(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a file and where each is; the list "utterances" of an object is read, too."""
    first = next((line for line in read_lines(path) if line.strip()), "")
    try:
        whole = "utterances" in parse_object(first)  # what `maya evaluate --json` writes
    except ValueError:
        whole = True  # a list or an object of several lines
    if not whole:
        for number, line in enumerate(read_lines(path), 1):
            if line.strip():
                try:
                    yield parse_object(line), f"{path}:{number}"
                except ValueError as error:
                    raise MayaError(f"{path}:{number}: {error}") from None
        return
    try:
        values = json.loads("\n".join(read_lines(path)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise MayaError(f"{path} is not JSON ({error})") from None
    rows = values.get("utterances") if isinstance(values, dict) else values
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MayaError(f"{path} is neither JSON lines nor a list of objects")
    yield from ((row, f"{path}, object {i}") for i, row in enumerate(rows, 1))


def _transcript(values: Mapping[str, Any], side: Side, where: str) -> TranscriptRow:
    start, end = _seconds(values, "start_time", where), _seconds(values, "end_time", where)
    recording = str(values.get("session_id", ""))
    id = next((str(values[name]) for name in _IDS if values.get(name) not in (None, "")), "")
    if not id and not recording:
        raise MayaError(f"{where} has no id; expected one of {', '.join((*_IDS, 'session_id'))}")
    if "audio_filepath" in values and "offset" in values and "id" not in values:
        id += f" {values['offset']}"  # several utterances of one file
    speaker, language = values.get("speaker"), _first(values, _LANGUAGES)
    return TranscriptRow(
        id=id,
        text=_text(values, side, where),
        recording=recording,
        channel=str(values.get("channel", "")),
        speaker=None if speaker is None else str(speaker),
        language=None if language is None else str(language),
        start=start,
        end=end,
        words=_words(values, where) if side == "hyp" else (),
        seconds=_seconds(values, "duration", where) or 0.0,
        snr=_seconds(values, "snr", where),
    )


def _text(values: Mapping[str, Any], side: Side, where: str) -> str:
    names = _TEXTS[side]
    if side == "hyp" and "audio_filepath" in values and "pred_text" not in values and "ref" not in values:
        raise MayaError(f"{where} has no pred_text: this manifest holds references and no hypotheses")
    text = next((values[name] for name in names if isinstance(values.get(name), str)), None)
    if text is None:
        raise MayaError(f"{where} has no text; expected one of {', '.join(names)}")
    return str(text)


def _words(values: Mapping[str, Any], where: str) -> tuple[Word, ...]:
    """The list `words` of a row of hyps.jsonl."""
    rows = values.get("words")
    if not isinstance(rows, list):
        return ()
    words = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise MayaError(f"{where}: each of its words must be an object with a text")
        start, end, confidence = (_seconds(row, name, where) for name in ("start", "end", "confidence"))
        words.append(Word(text=row["text"], start=start, end=end, confidence=confidence))
    return tuple(words)


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) not in (None, "")), None)


def _seconds(values: Mapping[str, Any], name: str, where: str) -> float | None:
    """A number that may be written as text, as times of SegLST are; None if it is absent."""
    value = values.get(name)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MayaError(f"{where}: {name} must be a number, not {value!r}") from None
