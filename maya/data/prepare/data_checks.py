"""Looking at prepared data again: are its files still there and the same, can they be read, are train, dev
and test apart. Nothing of what is told about them in maya.data.measure.probe is measured again."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maya.audio.byte_ranges import Stamp, file_stamp, same_stamp
from maya.audio.load import load_cut_audio
from maya.data.corpus.manifest import PARTS, Dropped
from maya.data.table.table import Entry, Table, part_path
from maya.errors import MayaError

REASONS = {
    "missing_file": "its file is gone since the data were prepared",
    "changed_file": "its file has another size or time than when the data were prepared",
    "outside_file": "its bytes lie beyond the end of its file",
    "cannot_be_read": "its audio cannot be decoded any more",
    "in_two_parts": "an utterance of this name is in another part too",
    "audio_in_two_parts": "the very same piece of audio is in another part too",
}
_AT_ONCE = 16  # files looked at at a time: network storage answers many questions as fast as one
_SLACK = 0.02  # seconds that a decoded recording may differ from what was measured


def check_data(data: Path, *, sample: int | None = None, seed: int = 0) -> list[Dropped]:
    """Everything that is wrong with a folder that `maya prepare` wrote, utterance by utterance.

    sample: how many utterances of each part to decode, drawn by seed; all if None. Every file is looked at,
    which reads no byte of it. Raises MayaError where a table is missing or damaged.
    """
    tables = {part: Table.open(part_path(data, part)) for part in PARTS}
    found = [problem for table in tables.values() for problem in _files(table)]
    found += _twice(tables, "in_two_parts", lambda table: table.read("id"))
    found += _twice(
        tables, "audio_in_two_parts", lambda table: table.read("path", "offset", "start", "channel")
    )
    broken = {one.id for one in found if one.reason.endswith("_file")}
    for table in tables.values():
        rows = np.arange(len(table))
        if sample is not None and sample < len(table):
            rows = np.sort(np.random.default_rng(seed).choice(len(table), sample, replace=False))
        if len(rows):
            found += _unreadable(table, rows, broken)
    return found


def _files(table: Table) -> Iterator[Dropped]:
    """Rows whose file is gone or another one, and those that say they lie where it ends."""
    codes, paths = table.codes("path")
    sizes, times = table.numbers("file_size"), table.numbers("file_mtime")
    first = np.zeros(len(paths), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]

    def wrong(number: int) -> tuple[str, str] | None:
        row, path = first[number], paths[number]
        was = Stamp(int(sizes[row]), int(times[row]))
        try:
            now = file_stamp(path)
        except MayaError as error:
            return "missing_file", str(error)
        if not same_stamp(was, now):
            detail = f"{path} had {was.size} bytes and time {was.mtime}, and has {now.size} and {now.mtime}"
            return "changed_file", detail
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        bad = {n: how for n, how in enumerate(pool.map(wrong, range(len(paths)))) if how is not None}
    rows = np.flatnonzero(np.isin(codes, list(bad)))
    ends = table.numbers("offset") + table.numbers("size")
    outside = np.flatnonzero((ends > sizes) & ~np.isin(codes, list(bad)))
    for entry, row in zip(table.entries(rows), rows.tolist(), strict=True):
        yield _problem(entry, *bad[int(codes[row])])
    for entry in table.entries(outside):
        end = (entry.offset or 0) + (entry.size or 0)
        yield _problem(entry, "outside_file", f"it ends at byte {end} of {entry.path}, of {entry.file_size}")


def _twice(
    tables: dict[str, Table], reason: str, key: Callable[[Table], Iterator[tuple[object, ...]]]
) -> Iterator[Dropped]:
    """Rows whose key is in another part too. 8 bytes a row are kept, and all of it only of suspects."""
    hashes = {part: np.fromiter(map(hash, key(table)), np.int64) for part, table in tables.items()}
    every = np.concatenate([np.unique(mine) for mine in hashes.values()])
    seen, counts = np.unique(every, return_counts=True)
    suspect = set(seen[counts > 1].tolist())
    if not suspect:
        return
    met: dict[tuple[object, ...], tuple[str, str]] = {}
    for part, table in tables.items():
        here = [number in suspect for number in hashes[part].tolist()]
        rows = np.flatnonzero(here)
        keys = [one for one, so in zip(key(table), here, strict=True) if so]
        for entry, mine in zip(table.entries(rows), keys, strict=True):
            other, name = met.setdefault(mine, (part, entry.id))
            if other != part:
                yield _problem(entry, reason, f"{part}: also in {other}, as {name!r}")


def _unreadable(table: Table, rows: NDArray[np.int64], broken: set[str]) -> Sequence[Dropped]:
    def decode(entry: Entry) -> Dropped | None:
        if entry.id in broken:
            return None
        try:
            seconds = len(load_cut_audio(entry.audio())) / entry.sample_rate
        except MayaError as error:
            return _problem(entry, "cannot_be_read", str(error))
        if abs(seconds - entry.duration) > _SLACK:
            detail = f"{seconds:.3f} s are decoded, where {entry.duration:.3f} s were found before"
            return _problem(entry, "cannot_be_read", detail)
        return None

    with ThreadPoolExecutor(4) as pool:  # decoders let go of the interpreter
        return [one for one in pool.map(decode, table.entries(rows)) if one is not None]


def _problem(entry: Entry, reason: str, detail: str) -> Dropped:
    return Dropped(id=entry.id, language=entry.language, reason=reason, detail=detail, where=entry.where)
