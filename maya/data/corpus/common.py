"""Helpers of the readers: languages and splits from names, ids of parts, several files as one corpus."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import Result, Row, short
from maya.errors import MayaError
from maya.text.iso_639 import NAMES, WITHDRAWN
from maya.text.languages import LANGUAGES, language_code

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"} | {
    name: "dev" for name in ("dev", "development", "val", "valid", "validation")
}
# Endings of audio files, in lower case: what libsndfile decodes, and what PyAV decodes where it is installed.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".sph", ".w64",
    ".caf", ".rf64", ".voc", ".mp2", ".m4a", ".mp4", ".mov", ".aac", ".webm", ".mka", ".mkv",
)  # fmt: skip
LOST_SECONDS = 0.1  # of an utterance that may lie outside of its recording: times are rounded
_NAMED = 3  # names that a note lists
SAME_SECONDS = 1e-3  # durations are rounded as they are written


def folder_language(path: Path, where: str) -> str:
    """The language that a folder in a path is named after: hi, hi_in or Hindi.

    `LANGUAGES` are preferred. Other languages are taken from relative paths only, because folders above the
    corpus are named for other reasons. Raises MayaError, which names `where`, if there is none, or more than
    one.
    """
    folders = path.parts[:-1]
    for part in folders:
        if part in LANGUAGES:
            return part
    codes = dict.fromkeys(code for part in folders if (code := _named_language(part)) is not None)
    usual = [code for code in codes if code in LANGUAGES]
    candidates = usual[:1] or ([] if path.is_absolute() else list(codes))
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        named = " and ".join(f"{code} ({NAMES.get(code.split('-')[0], code)})" for code in candidates)
        raise MayaError(
            f"{where}: its folders name several languages, {named}; name one with prepare.language"
        )
    raise MayaError(
        f"{where}: its language is not given; name one with prepare.language, or use a folder such as hi/ "
        "for Hindi"
    )


@cache
def _named_language(folder: str) -> str | None:
    """The language that a folder is named by. A code of three letters counts only if it is in our table:
    folders are called dev, wav and tmp, too."""
    try:
        code = language_code(folder)
    except MayaError:
        return None
    base = re.split(r"[-_]", folder.lower())[0]
    usual = code.split("-")[0] in NAMES and base not in WITHDRAWN and not re.search(r"[\s(.@]", folder)
    return code if usual else None


def channel_of(value: Any, channels: Any = None) -> int | None:
    """The channel that a corpus names, from 0; None where it names none, or wants the average of all.

    value: a number, a list of one, or "average". channels: those that the recording has, where the corpus
    lists them: the channel is then its place among these. Raises ValueError for several channels out of more,
    and for one that the recording lacks.
    """
    if value is None or value == "" or (isinstance(value, str) and value.lower() == "average"):
        return None
    numbers = value if isinstance(value, list) else [value]
    numbers = [int(n) if isinstance(n, str) and re.fullmatch(r"[0-9]{1,5}", n) else n for n in numbers]
    if not numbers or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"the channel must be a number from 0, not {short(value)}")
    if isinstance(channels, list):
        if missing := [number for number in numbers if number not in channels]:
            raise ValueError(f"it names channel {missing[0]} of a recording that has {short(channels)}")
        if set(numbers) == set(channels):
            return None
        numbers = [channels.index(number) for number in numbers]
    if len(numbers) > 1:
        raise ValueError(
            f"it names several channels, {short(value)}; name one, or none to average all of them"
        )
    return numbers[0]


def part_in_name(name: str) -> str | None:
    """train, dev or test, where a name such as train-clean or cv_validation.jsonl holds just one of them."""
    parts = {_PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _PARTS}
    return parts.pop() if len(parts) == 1 else None


def seconds(values: dict[str, Any], name: str) -> float:
    """A field of seconds, negative if it lies before the start of a cut; ValueError if it is not a number."""
    value: Any = values.get(name)
    if type(value) not in (int, float) or not -1e12 <= value <= 1e12:
        raise ValueError(f"the field {name!r} must be seconds, not {short(value)}")
    return float(value)


def within(start: float, duration: float, total: float) -> tuple[float, float] | None:
    """(start, duration) of what lies within `total` seconds; None where more than `LOST_SECONDS` do not.

    A supervision may begin before its cut or end after it: lhotse keeps all that a cut overlaps.
    """
    begin, end = max(start, 0.0), min(start + duration, total)
    return (begin, end - begin) if duration - (end - begin) <= LOST_SECONDS else None


def part_id(name: str, start: float, duration: float | None) -> str:
    """The id of an utterance within a recording: the recording's with start and end in milliseconds."""
    end = "end" if duration is None else f"{round(1000 * (start + duration)):08d}"
    return f"{name}-{round(1000 * start):08d}-{end}"


def unused(names: Sequence[str], what: str, count: int | None = None) -> list[str]:
    """A note about parts of a corpus that are not read; none where there are no such parts. count: their
    number, where not all are named."""
    count = len(names) if count is None else count
    shown = ", ".join(names[:_NAMED]) + (" ..." if count > _NAMED else "")
    named = f": {shown}" if names else ""
    return [f"{count} {what}, and are not read{named}"] if count else []


def joined(files: Iterable[list[Row]]) -> list[Row]:
    """The rows of several files of one corpus; MayaError for an id that two of them have."""
    rows: dict[str, Row] = {}
    for part in files:
        for row in part:
            if row.id in rows:
                first = rows[row.id].where
                raise MayaError(
                    f"{row.where}: the id {short(row.id)} occurs in {first} already; ids must differ"
                )
            rows[row.id] = row
    return list(rows.values())


def merged(results: Iterable[Result]) -> Result:
    """The rows of several files of one corpus, see `joined`, and the utterances that they dropped."""
    results = list(results)
    return joined(rows for rows, _ in results), [problem for _, dropped in results for problem in dropped]
