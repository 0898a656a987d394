"""Checks of prepared data: files exist and are the same, audio can be read, train, dev and test are apart.

What maya.data.measure.probe measured is not measured again."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maya.audio.byte_ranges import file_stamp
from maya.audio.stamps import Stamp, same_stamp
from maya.data.corpus.manifest import PARTS, Problem
from maya.data.measure.entry import Entry
from maya.data.table.table import Table, part_path
from maya.errors import MayaError

_AT_ONCE = 16  # files looked at at a time: network storage answers many questions as fast as one
_SLACK = 0.02  # seconds that a decoded recording may differ from what was measured


def check_data(data: Path, *, sample: int | None = None, seed: int = 0) -> list[Problem]:
    """All problems of a folder that `maya prepare` wrote, utterance by utterance.

    sample: number of utterances of each part to decode, drawn by seed; all if None. The size and time of
    every file are checked, which reads no byte of it. Raises MayaError where a table is missing or damaged.
    """
    tables = {part: Table.open(part_path(data, part)) for part in PARTS}
    problems = [problem for table in tables.values() for problem in _files(table)]
    problems += _twice(tables, "in_two_parts", lambda table: table.read("id"))
    problems += _twice(
        tables, "audio_in_two_parts", lambda table: table.read("path", "offset", "start", "channel")
    )
    broken = {problem.id for problem in problems if problem.reason.endswith("_file")}
    for table in tables.values():
        rows = np.arange(len(table))
        if sample is not None and sample < len(table):
            rows = np.sort(np.random.default_rng(seed).choice(len(table), sample, replace=False))
        if len(rows):
            problems += _unreadable(table, rows, broken)
    return problems


def _files(table: Table) -> Iterator[Problem]:
    """Rows whose file is missing or was replaced, and rows whose bytes lie beyond the end of their file."""
    codes, paths = table.codes("path")
    sizes, times = table.numbers("file_size"), table.numbers("file_mtime")
    first = np.zeros(len(paths), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]

    def wrong(number: int) -> tuple[str, str] | None:
        row, path = first[number], paths[number]
        before = Stamp(int(sizes[row]), int(times[row]))
        try:
            now = file_stamp(path)
        except MayaError as error:
            return "missing_file", str(error)
        if not same_stamp(before, now):
            detail = (
                f"{path} had {before.size} bytes and time {before.mtime}, and has {now.size} and {now.mtime}"
            )
            return "changed_file", detail
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        bad = {n: reason for n, reason in enumerate(pool.map(wrong, range(len(paths)))) if reason is not None}
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
) -> Iterator[Problem]:
    """Rows whose key is in another part too. Only 8 bytes a row are kept, and the whole key of suspects."""
    hashes = {part: np.fromiter(map(hash, key(table)), np.int64) for part, table in tables.items()}
    every = np.concatenate([np.unique(numbers) for numbers in hashes.values()])
    values, counts = np.unique(every, return_counts=True)
    suspect = set(values[counts > 1].tolist())
    if not suspect:
        return
    met: dict[tuple[object, ...], tuple[str, str]] = {}
    for part, table in tables.items():
        suspects = [number in suspect for number in hashes[part].tolist()]
        rows = np.flatnonzero(suspects)
        keys = itertools.compress(key(table), suspects)
        for entry, value in zip(table.entries(rows), keys, strict=True):
            other, name = met.setdefault(value, (part, entry.id))
            if other != part:
                yield _problem(entry, reason, f"{part}: also in {other}, as {name!r}")


def _unreadable(table: Table, rows: NDArray[np.int64], broken: set[str]) -> Sequence[Problem]:
    def decode(entry: Entry) -> Problem | None:
        if entry.id in broken:
            return None
        try:
            seconds = len(entry.load_audio()) / entry.sample_rate
        except MayaError as error:
            return _problem(entry, "cannot_be_read", str(error))
        if abs(seconds - entry.duration) > _SLACK:
            detail = f"{seconds:.3f} s are decoded, where {entry.duration:.3f} s were found before"
            return _problem(entry, "cannot_be_read", detail)
        return None

    with ThreadPoolExecutor(4) as pool:  # decoders let go of the interpreter
        return [problem for problem in pool.map(decode, table.entries(rows)) if problem is not None]


def _problem(entry: Entry, reason: str, detail: str) -> Problem:
    return Problem(id=entry.id, language=entry.language, reason=reason, detail=detail, where=entry.where)
