"""What the readers share: languages and splits told by names, ids of parts, several files as one corpus."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maya.data.manifest import Row, short
from maya.errors import MayaError
from maya.text.languages import LANGUAGES

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"} | {
    name: "dev" for name in ("dev", "development", "val", "valid", "validation")
}
SAME_SECONDS = 1e-3  # durations are rounded as they are written
# ISO 639-3, by code.
_LONG_CODES = {
    "hi": "hin", "bn": "ben", "ta": "tam", "te": "tel", "mr": "mar", "gu": "guj",
    "kn": "kan", "ml": "mal", "pa": "pan", "or": "ory", "as": "asm", "en": "eng",
}  # fmt: skip


def folder_language(path: Path, where: str) -> str:
    """The language code among the folders of a path; MayaError, which names `where`, if there is none."""
    for part in path.parts[:-1]:
        if part in LANGUAGES:
            return part
    raise MayaError(f"{where}: its language is not given; name one, or use a folder such as hi/ for Hindi")


def known_language(value: Any) -> Any:
    """The code of a language that others name English, en-US or hin; other values as they are."""
    if not isinstance(value, str) or value in LANGUAGES:
        return value
    name = value.strip().lower()
    first = re.split(r"[-_]", name)[0]
    for language in LANGUAGES.values():
        if name == language.name.lower() or first in (language.code, _LONG_CODES.get(language.code)):
            return language.code
    return value


def part_in_name(name: str) -> str | None:
    """train, dev or test, where a name such as train-clean or cv_validation.jsonl holds just one of them."""
    found = {_PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _PARTS}
    return found.pop() if len(found) == 1 else None


def seconds(values: dict[str, Any], name: str) -> float:
    """A field of seconds, which may be a little below zero; ValueError if it is none."""
    value: Any = values.get(name)
    if type(value) not in (int, float) or not -1.0 < value <= 1e12:
        raise ValueError(f"the field {name!r} must be seconds, not {short(value)}")
    return float(value)


def part_id(name: str, start: float, duration: float | None) -> str:
    """The id of an utterance within a recording: the recording's with start and end in milliseconds."""
    end = "end" if duration is None else f"{round(1000 * (start + duration)):08d}"
    return f"{name}-{round(1000 * start):08d}-{end}"


def joined(files: Iterable[list[Row]]) -> list[Row]:
    """The rows of several files of one corpus; MayaError for an id that two of them have."""
    rows: dict[str, Row] = {}
    for found in files:
        for row in found:
            if row.id in rows:
                first = rows[row.id].where
                raise MayaError(
                    f"{row.where}: the id {short(row.id)} occurs in {first} already; ids must differ"
                )
            rows[row.id] = row
    return list(rows.values())
