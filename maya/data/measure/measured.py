"""Measurements of audio, kept in small files so that nothing is measured twice.

Decoding is most of the time that preparation takes. A run that was killed, or that is repeated with another
split or other checks, finds the earlier measurements here. A file holds those of some utterances. Its name is
a hash of everything they depend on: the place of each utterance, size and time of its file, and the settings.
A file is therefore right or not looked at.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from maya.audio.sound import Sound
from maya.files import json_sha256, writing

_VERSION = 2  # of what is measured, and how
_SOUND = [field.name for field in fields(Sound)]


class Measured(NamedTuple):
    """reason, detail: why the audio cannot be used, None if it can; the rest is 0 or None where it cannot.
    offset, size: in a tar, bytes. sample_rate (Hz), channels, num_samples: of the recording."""

    reason: str | None = None
    detail: str | None = None
    offset: int | None = None
    size: int | None = None
    sample_rate: int = 0
    channels: int = 0
    num_samples: int = 0
    sound: Sound | None = None


_SCHEMA = pa.schema(
    [
        ("reason", pa.string()), ("detail", pa.string()), ("offset", pa.int64()), ("size", pa.int64()),
        ("sample_rate", pa.int64()), ("channels", pa.int64()), ("num_samples", pa.int64()),
        *((name, pa.float64()) for name in _SOUND),
    ],
    metadata={"maya.measured": str(_VERSION)},
)  # fmt: skip


def part_name(places: Sequence[object], settings: object) -> str:
    """The name of the file of some utterances: a hash of everything that their measurements depend on."""
    return json_sha256([_VERSION, settings, places])[:32] + ".parquet"


def read_part(path: Path, count: int) -> list[Measured] | None:
    """The measurements of `count` rows; None where the file is missing or damaged."""
    try:
        table = pq.read_table(path, use_threads=False, page_checksum_verification=True)
        table.validate(full=True)  # a damaged footer can leave codes that point past their dictionary
        whole = table.schema.equals(_SCHEMA) and len(table) == count  # the footer has no checksum
    except (pa.ArrowException, OSError, UnicodeDecodeError):  # the last of a damaged name of a column
        return None
    if not whole:
        return None
    measured = []
    for row in table.to_pylist():
        sound = {name: row.pop(name) for name in _SOUND}
        measured.append(Measured(**row, sound=None if sound["level"] is None else Sound(**sound)))
    return measured


def write_part(path: Path, measured: Sequence[Measured]) -> None:
    """Write measurements, atomically. Raises MayaError where the folder cannot be written to, and OSError
    when the disk is full."""
    rows = []
    for item in measured:
        values = item._asdict()
        sound = values.pop("sound")
        rows.append(values | {name: getattr(sound, name) if sound else None for name in _SOUND})
    with writing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), partial, write_page_checksum=True)


def forget_others(folder: Path, names: Sequence[str]) -> None:
    """Remove the files that have none of these names: they belong to other files, settings or corpora."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in (".parquet", ".partial") and path.name not in names:
            path.unlink(missing_ok=True)
