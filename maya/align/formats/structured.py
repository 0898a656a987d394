"""The formats json and jsonl."""

import json
from typing import Any

from maya.align.formats.base import FormatConfig
from maya.decode.hypothesis import Hypothesis, TextSegment, Word
from maya.decode.transcription import Transcript


def as_dict(transcript: Transcript, cfg: FormatConfig) -> dict[str, Any]:
    """The transcript for a program. seconds: of audio. Numbers that the method does not give are null."""
    row: dict[str, Any] = {
        "id": transcript.id,
        "channel": transcript.channel,
        "seconds": round(transcript.seconds, 3),
        "model": cfg.model,
    }
    if (hyp := transcript.hypothesis) is not None:
        row |= _texts(hyp)
        row |= {"language": hyp.language, "language_probability": _rounded(hyp.language_probability, 4)}
        row["segments"] = [_segment(segment) for segment in hyp.segments]
        if transcript.turns:
            row["turns"] = [
                {"speaker": t.speaker, "start": _rounded(t.start, 3), "end": _rounded(t.end, 3)}
                for t in transcript.turns
            ]
        if hyp.alternatives:
            row["alternatives"] = [_texts(alternative) for alternative in hyp.alternatives]
        row["tokens"] = {
            "ids": hyp.tokens, "frames": hyp.frames, "durations": hyp.durations, "scores": hyp.scores,
            "confidences": hyp.confidences, "frame_seconds": hyp.frame_seconds,
        }  # fmt: skip
    if transcript.predictions:
        row["labels"] = {
            name: {"label": p.label, "probability": _rounded(p.probability, 4)}
            for name, p in transcript.predictions.items()
        }
    return row


def json_text(transcript: Transcript, cfg: FormatConfig) -> str:
    """One JSON object over several lines."""
    return json.dumps(as_dict(transcript, cfg), ensure_ascii=False, indent=1) + "\n"


def jsonl(transcript: Transcript, cfg: FormatConfig) -> str:
    """One JSON object in one line."""
    return json.dumps(as_dict(transcript, cfg), ensure_ascii=False) + "\n"


def _texts(hyp: Hypothesis) -> dict[str, Any]:
    values = [word.confidence for word in hyp.words if word.confidence is not None]
    return {
        "text": hyp.text,
        "confidence": _rounded(sum(values) / len(values), 4) if values else None,
        "search_score": _rounded(hyp.search_score, 4),
        "words": [_word(word) for word in hyp.words],
    }


def _segment(segment: TextSegment) -> dict[str, Any]:
    row = {"text": segment.text} | _numbers(segment)
    return row if segment.check is None else row | {"check": segment.check}


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text} | _numbers(word)


def _numbers(item: Word | TextSegment) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "start": _rounded(item.start, 3),
        "end": _rounded(item.end, 3),
        "confidence": _rounded(item.confidence, 4),
    }
    return numbers if item.speaker is None else numbers | {"speaker": item.speaker}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
