"""What was measured of utterances' audio, kept in small files so that it is not measured again.

Decoding is most of the time that preparation takes. A run that was killed, or that is repeated with another
split or other checks, finds here what the last one measured. A file holds some utterances and is named by a
hash of all that its numbers depend on: where each lies, size and time of the files, and the settings. So it
is either right or not looked at.
"""

import errno
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from maya.audio.sound import Sound
from maya.errors import MayaError

_VERSION = 2  # of what is measured, and how
_SOUND = [field.name for field in fields(Sound)]


class Measured(NamedTuple):
    """reason, detail: why it cannot be used, None if it can; the rest is 0 or None where it cannot. offset,
    size: in a tar, bytes. sample_rate (Hz), channels, num_samples: of the recording. sound: how it sounds."""

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
    """The name of the file of some utterances: a hash of all that their measures depend on."""
    known = json.dumps([_VERSION, settings, places], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".parquet"


def read_part(path: Path, count: int) -> list[Measured] | None:
    """What was kept of so many rows; None where there is nothing, or it is damaged."""
    try:
        table = pq.read_table(path, use_threads=False, page_checksum_verification=True)
        whole = table.schema.equals(_SCHEMA) and len(table) == count  # the footer has no checksum
    except (pa.ArrowException, OSError, UnicodeDecodeError):  # the last of a damaged name of a column
        return None
    if not whole:
        return None
    found = []
    for one in table.to_pylist():
        sound = {name: one.pop(name) for name in _SOUND}
        found.append(Measured(**one, sound=None if sound["level"] is None else Sound(**sound)))
    return found


def write_part(path: Path, found: Sequence[Measured]) -> None:
    """Keep these; a reader never meets half of them. Raises MayaError where the folder cannot be written to,
    and OSError when the disk is full."""
    rows = []
    for one in found:
        values = one._asdict()
        sound = values.pop("sound")
        rows.append(values | {name: getattr(sound, name) if sound else None for name in _SOUND})
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), partial, write_page_checksum=True)
        partial.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MayaError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def forget_others(folder: Path, names: Sequence[str]) -> None:
    """Remove the parts that have none of these names: of files, settings and corpora that are no more."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in (".parquet", ".partial") and path.name not in names:
            path.unlink(missing_ok=True)
