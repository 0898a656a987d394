"""What the report page shows of an utterance besides its texts: audio, noise and confidence of its words."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maya.data.measure.entry import Entry
from maya.data.table.table import Table

Normal = Callable[[str, str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class UtteranceDetails:
    """audio: the entry of the prepared data, from which it is loaded; None where it is unknown. snr: in dB,
    for an utterance that does not note its own; None where it was not measured. confidences: in [0, 1], one
    per word of the hypothesis in normal form; empty where they are unknown."""

    audio: Entry | None = None
    snr: float | None = None
    confidences: tuple[float | None, ...] = ()


NO_DETAILS = UtteranceDetails()


def table_details(
    table: Table, confidences: Mapping[str, tuple[float | None, ...]]
) -> dict[str, UtteranceDetails]:
    """The details of every utterance of a prepared table, by id. confidences: see `read_confidences`."""
    return {
        entry.id: UtteranceDetails(audio=entry, snr=entry.snr, confidences=confidences.get(entry.id, ()))
        for entry in table.entries()
    }


def read_confidences(path: Path, normal_form: Normal) -> dict[str, tuple[float | None, ...]]:
    """By id, the confidences of the words in a hyps.jsonl whose rows have `words` with a confidence.

    normal_form: (text, language) -> the text that is scored. It may split a word or remove one that is only
    punctuation; an utterance whose words then differ from its text is left out.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = (json.loads(line) for line in lines if '"words"' in line)
    pairs = ((row["id"], word_confidences(row, normal_form)) for row in rows)
    return {id_: values for id_, values in pairs if values}


def word_confidences(row: Mapping[str, Any], normal_form: Normal) -> tuple[float | None, ...]:
    """One confidence per word of the text in normal form; empty where the row has none."""
    words: Iterable[Mapping[str, Any]] = row.get("words") or ()
    language = row["language"]
    texts: list[str] = []
    values: list[float | None] = []
    for word in words:
        parts = normal_form(word["text"], language).split()
        texts += parts
        values += [word.get("confidence")] * len(parts)
    if not any(value is not None for value in values):
        return ()
    return tuple(values) if texts == normal_form(row["text"], language).split() else ()
