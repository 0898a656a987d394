"""Replay: training data that mix a person's own utterances with general ones, so that less is forgotten."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maya.data.measure.entry import Entry
from maya.data.table.table import Table, part_path, write_table
from maya.errors import MayaError
from maya.recipes.markers import is_done, mark_done, table_identity

_MOST_COPIES = 20  # of an utterance in a pass over the mix


def mix(own: Path, general: Path, out: Path, *, share: float, languages: Sequence[str], seed: int) -> Path:
    """Write to `out` the data `own` with a train table in which `share` of the seconds are of `general`;
    returns `out`.

    One pass over the mix holds the own utterances several times, so that as many general ones fit in. Raises
    MayaError where `general` has no training utterances in `languages`.
    """
    inputs = {
        "own": table_identity(own, "train"),
        "general": table_identity(general, "train"),
        "share": [share, seed, list(languages)],
    }
    if is_done(out / "stage.json", inputs):
        return out
    personal, others = Table.open(part_path(own, "train")), Table.open(part_path(general, "train"))
    names = {entry.id for entry in personal.entries()}
    held_out = [
        Table.open(part_path(own, part)) for part in ("dev", "test") if part_path(own, part).is_file()
    ]
    same = (
        np.any([same_sound(others, table) for table in held_out], axis=0)
        if held_out
        else [False] * len(others)
    )
    rows = [
        e
        for e, is_held_out in zip(others.entries(), same, strict=True)
        if e.language in languages and e.id not in names and not is_held_out
    ]
    if not rows:
        raise MayaError(f"{general} has no training utterances in {', '.join(languages)} to replay")
    seconds, available = float(personal.numbers("duration").sum()), sum(entry.duration for entry in rows)
    ratio = share / (1 - share)
    copies = max(1, min(_MOST_COPIES, round(available / (ratio * seconds))))
    order = np.random.default_rng(seed).permutation(len(rows))
    ends = np.cumsum([rows[i].duration for i in order])
    taken = [rows[i] for i in order[: 1 + int(np.searchsorted(ends, ratio * seconds * copies))]]
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(own, out)
    write_table(part_path(out, "train"), [*_copies(personal, copies), *taken])
    print(f"replay: {len(taken)} utterances of {general}, and each of the own {copies} times → {out}")
    mark_done(out / "stage.json", inputs)
    return out


def same_sound(table: Table, other: Table) -> NDArray[np.bool_]:
    """Which utterances of a table, (n,), sound the same as one of another: the same seconds, level and noise
    to the bit. Utterances that were not decoded when they were prepared count as different."""
    columns = ("duration", "level", "snr")
    rows, others = (np.stack([t.numbers(c).astype(np.float64) for c in columns], 1) for t in (table, other))
    keys = set(map(tuple, others[np.isin(others[:, 1], rows[:, 1])].tolist()))
    near = np.isin(rows[:, 1], others[:, 1])
    near[near] = [tuple(row) in keys for row in rows[near].tolist()]
    return near


def _copies(table: Table, count: int) -> Iterator[Entry]:
    for number in range(count):
        for entry in table.entries():
            yield entry if number == 0 else entry._replace(id=f"{entry.id}#{number + 1}")
