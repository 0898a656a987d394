"""What the readers share: languages and splits told by names, ids of parts, several files as one corpus."""

import re
from collections.abc import Iterable
from pathlib import Path

from maya.data.manifest import Row, short
from maya.errors import MayaError
from maya.text.languages import LANGUAGES

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"} | {
    name: "dev" for name in ("dev", "development", "val", "valid", "validation")
}


def folder_language(path: Path, where: str) -> str:
    """The language code among the folders of a path; MayaError, which names `where`, if there is none."""
    for part in path.parts[:-1]:
        if part in LANGUAGES:
            return part
    raise MayaError(f"{where}: its language is not given; name one, or use a folder such as hi/ for Hindi")


def part_in_name(name: str) -> str | None:
    """train, dev or test, where a name such as train-clean or cv_validation.jsonl holds just one of them."""
    found = {_PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _PARTS}
    return found.pop() if len(found) == 1 else None


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
