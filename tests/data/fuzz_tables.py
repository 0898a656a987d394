"""Damaged tables of prepared data, and valid tables with wrong values, for tests/data/fuzz.py."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maya.audio.load import load_cut_audio
from maya.data.corpus.manifest import PARTS
from maya.data.measure.entry import Entry
from maya.data.prepare.data_checks import check_data
from maya.data.table.cuts import entry_cut
from maya.data.table.table import SCHEMA, Table, part_path, write_table

NUMBERS = (-1, 0, 1, 7, 2**31, 2**53, 2**62, 2**63 - 1)
REALS = (-1.0, 0.0, 1e-300, 1e300, math.inf, math.nan)
TEXTS = ("", "a", "../secret.wav", "/etc/passwd", "/dev/zero", "bytes://x?offset=1&size=2")


def write_tables(folder: Path, entries: Sequence[Entry], rng: random.Random, damaged: Callable) -> None:
    """Write tables of these entries, one of them damaged."""
    folder.mkdir(exist_ok=True)
    for part in PARTS:
        part_entries = entries if part == "train" else entries[:1]
        write_table(part_path(folder, part), [lying(entry, rng) for entry in part_entries])
    path = part_path(folder, rng.choice(PARTS))
    draw = rng.random()
    if draw < 0.6:
        path.write_bytes(damaged(path.read_bytes(), rng))
    elif draw < 0.7:  # the end of the file holds its metadata
        data = path.read_bytes()
        keep = len(data) - rng.randrange(1, 3000)
        path.write_bytes(data[: max(0, keep)] + damaged(data[max(0, keep) :], rng))
    elif draw < 0.85:
        fields = [f for f in SCHEMA if rng.random() < 0.9]
        other = pa.schema(fields, metadata=SCHEMA.metadata if rng.random() < 0.5 else None)
        pq.write_table(other.empty_table(), path)


def lying(entry: Entry, rng: random.Random) -> Entry:
    """A copy of the entry that may have impossible values."""
    if rng.random() < 0.6:
        return entry
    name = rng.choice(Entry._fields)
    kinds = str(Entry.__annotations__[name])
    if name == "labels":
        return entry._replace(labels={rng.choice(TEXTS): rng.choice(TEXTS), "emotion": "calm"})
    values: Sequence[Any] = NUMBERS if "int" in kinds else REALS if "float" in kinds else TEXTS
    return entry._replace(**{name: rng.choice(values)})


def read_tables(folder: Path, rng: random.Random, attempt: Callable[..., Any]) -> int:
    """Read the tables as training and `maya validate` do. Returns the number of decoded utterances."""
    decoded = 0
    for part in PARTS:
        table = attempt(Table.open, part_path(folder, part))
        if table is None:
            continue
        attempt(lambda t=table: list(t.entries()))
        for read in (table.numbers, table.strings, table.codes):
            name = rng.choice(
                [
                    f.name
                    for f in SCHEMA
                    if f.name != "labels" and (read == table.strings) == (f.type == pa.string())
                ]
            )
            if read != table.codes or name in ("path", "language", "speaker"):
                attempt(read, name)
        for row in range(min(len(table), 3)):
            entry = attempt(table.entry if rng.random() < 0.5 else table.audio, row)
            if entry is not None and rng.random() < 0.5:
                decoded += attempt(entry.load_audio) is not None
            elif entry is not None:
                cut = attempt(entry_cut, entry)
                decoded += cut is not None and attempt(load_cut_audio, cut) is not None
        attempt(lambda t=table: t.labels.batch(range(len(t))))
    attempt(check_data, folder)
    return decoded
