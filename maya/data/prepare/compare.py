"""Comparing the utterances of a corpus with one another, however many there are.

Only those whose keys are equal are looked at (see columns): they are brought together from all shards, some
thousands at a time. What is noticed goes back to the shards.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from maya.data.corpus.manifest import PARTS
from maya.data.measure.entry import Entry
from maya.data.measure.flags import Finding
from maya.data.measure.overlaps import overlap_groups, overlaps
from maya.data.prepare.columns import Keys, blocks, mixed, occurs_twice
from maya.data.prepare.shards import Shards
from maya.data.prepare.text_checks import (
    FITTED,
    TextCheckConfig,
    rate_finding,
    repeated_texts,
    same_audio,
    twin_findings,
    usual_duration,
)

_TOGETHER = 100_000  # utterances that are looked at together, 0.2 GB
_FIELDS = (
    "id", "path", "offset", "size", "file_size", "start", "duration", "text", "language", "speaker", "channel"
)  # fmt: skip
_PLACES = [Entry._fields.index(name) for name in _FIELDS]
_EMPTY: list[Any] = [Entry._field_defaults.get(name) for name in Entry._fields]


class Spill:
    """Lists on disk, by number, to which values that JSON can hold are added."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

    def add(self, number: int, values: Iterable[Any]) -> None:
        with self.path(number).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(value) + "\n" for value in values)

    def read(self, number: int) -> Iterator[Any]:
        """The values in the order in which they were added."""
        if self.path(number).is_file():
            with self.path(number).open(encoding="utf-8") as file:
                yield from map(json.loads, file)


def picked(shards: Shards, rows: NDArray[np.int64]) -> Iterator[tuple[int, Entry]]:
    """(row, utterance with the fields that comparing needs) of these rows, which ascend."""
    for begin, table in shards.tables():
        here = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, begin + len(table))]
        if not len(here):
            continue
        wanted = np.zeros(len(table), np.bool_)
        wanted[here - begin] = True
        for row, values in enumerate(table.read(*_FIELDS)):
            if wanted[row]:
                yield begin + row, _entry(values)


def _entry(values: Sequence[Any]) -> Entry:
    fields = _EMPTY.copy()
    for place, value in zip(_PLACES, values, strict=True):
        fields[place] = value
    return Entry(*fields)


def together(
    shards: Shards, column: Keys, rows: NDArray[np.int64], folder: Path
) -> Iterator[tuple[dict[str, int], list[Entry]]]:
    """(row of each id, utterances in order) in lots: those of `rows` whose key another one of them has too.
    column: the key of each of these rows."""
    alike, scratch = occurs_twice(column), shards.scratch
    rows, column = scratch.chosen(rows, alike), scratch.chosen(column, alike)
    lots = 1 + len(rows) // _TOGETHER
    if not len(rows):
        return
    if lots == 1:
        lot = list(picked(shards, rows))
        yield {entry.id: row for row, entry in lot}, [entry for _, entry in lot]
        return
    spill, stream = Spill(folder), picked(shards, rows)
    for begin in range(0, len(rows), _TOGETHER):
        by_lot: dict[int, list[Any]] = {}
        numbers = (mixed(column[begin : begin + _TOGETHER]) % np.uint64(lots)).tolist()
        for number, (row, entry) in zip(numbers, islice(stream, _TOGETHER), strict=True):
            by_lot.setdefault(number, []).append([row, *(entry[place] for place in _PLACES)])
        for number, values in by_lot.items():
            spill.add(number, values)
    for number in range(lots):
        rows_of, entries = {}, []
        for row, *values in spill.read(number):
            entries.append(_entry(values))
            rows_of[entries[-1].id] = row
        spill.path(number).unlink(missing_ok=True)
        yield rows_of, entries


class Suspicions:
    """What comparing finds suspicious, by shard; `rank` orders the findings of an utterance."""

    def __init__(self, shards: Shards, folder: Path) -> None:
        self._spill, self._ends = Spill(folder), shards.ends

    def add(self, findings: Iterable[tuple[int, Finding]], rank: int) -> None:
        """findings: (row, finding)."""
        by_shard: dict[int, list[Any]] = {}
        for row, finding in findings:
            number = int(np.searchsorted(self._ends, row, side="right")) - 1
            by_shard.setdefault(number, []).append([row - int(self._ends[number]), rank, *finding])
        for number, values in by_shard.items():
            self._spill.add(number, values)

    def path(self, number: int) -> Path:
        return self._spill.path(number)


def suspicions(path: Path) -> list[tuple[int, Finding]]:
    """(row of the shard, finding), by row and rank, of a file of `Suspicions`."""
    spill = Spill(path.parent)
    values = sorted(spill.read(int(path.stem)), key=lambda value: (value[0], value[1]))
    return [(row, (reason, detail)) for row, _, reason, detail in values]


def compare_texts(
    shards: Shards, cfg: TextCheckConfig, folder: Path
) -> tuple[Suspicions, NDArray[np.int64] | None]:
    """Findings that several utterances give; and (n,) the first utterance with the same audio, None where
    audio is not compared."""
    noticed = Suspicions(shards, folder / "findings")
    languages, scratch = shards.languages[0], shards.scratch
    for findings in _rates(shards, cfg):
        noticed.add(findings, 0)
    rows = scratch.where(shards.extra("words") >= cfg.repeat_min_words)
    compared = languages, shards.extra("speaker"), shards.extra("text")
    column = mixed(*(scratch.taken(column, rows) for column in compared), scratch=scratch)
    for rows_of, entries in together(shards, column, rows, folder / "texts"):
        repeated = repeated_texts(entries, cfg.repeat_min_words)
        noticed.add(((rows_of[name], finding) for name, finding in repeated), 1)
    if not cfg.compare_audio:
        return noticed, None
    first = scratch.where(np.ones(len(shards), np.bool_))
    for rows_of, entries in together(shards, shards.extra("audio"), first, folder / "audio"):
        twins = same_audio(entries)
        noticed.add(((rows_of[name], finding) for name, finding in twin_findings(entries, twins)), 2)
        for name, other in twins.items():
            first[rows_of[name]] = rows_of[other]
    return noticed, first


def _rates(shards: Shards, cfg: TextCheckConfig) -> Iterator[list[tuple[int, Finding]]]:
    """Texts that are far too long or short for their audio, by language."""
    languages, codes = shards.languages
    lengths = (pc.utf8_length(table.column("text")).to_numpy() for _, table in shards.tables())
    characters = shards.scratch.joined(lengths, len(shards), np.int32)
    seconds = shards.numbers("duration")
    for number in range(len(codes)):
        rows = shards.scratch.where(languages == number)
        if len(rows) < cfg.rate_min_utterances:
            continue
        some = rows[:: -(-len(rows) // FITTED)]
        usual = usual_duration(characters[some].astype(np.float64), seconds[some])
        for begin in range(0, len(rows), _TOGETHER):
            some = rows[begin : begin + _TOGETHER]
            lengths_of = characters[some].astype(np.float64)
            off = np.abs(usual.off(lengths_of, seconds[some])) > cfg.rate_deviations
            expected = usual.seconds(lengths_of[off]).tolist()
            yield [
                (row, rate_finding(int(characters[row]), float(seconds[row]), wanted))
                for row, wanted in zip(some[off].tolist(), expected, strict=True)
            ]


class SharedAudio:
    """Utterances that cover the same span of a recording. groups: (n,) the same number for those that a split
    must keep in one part, -1 for none."""

    def __init__(self, shards: Shards, kept: NDArray[np.bool_], folder: Path) -> None:
        scratch = shards.scratch
        self.groups = scratch.full(len(shards), np.int64, -1)
        self._spill = Spill(folder / "overlaps")
        rows = scratch.where(kept)
        column = scratch.taken(shards.extra("recording"), rows)
        for rows_of, entries in together(shards, column, rows, folder / "recordings"):
            shared = list(overlaps(entries))
            for name, root in overlap_groups(shared).items():
                self.groups[rows_of[name]] = rows_of[root]
            self._spill.add(
                0,
                (
                    [rows_of[o.first.id], o.first.id, rows_of[o.second.id], o.second.id, o.seconds]
                    for o in shared
                ),
            )

    def notes(self) -> list[str]:
        """A sentence for people; none where nothing is shared."""
        parts = (self.groups[some] for some in blocks(len(self.groups)))
        members = np.concatenate([np.zeros(0, np.int64), *(part[part >= 0] for part in parts)])
        if not len(members):
            return []
        count = len(np.unique(members))
        return [f"{len(members)} utterances share audio with others: {count} groups, each kept in one part"]

    def in_other_parts(self, parts: NDArray[np.int8]) -> dict[int, str]:
        """By row, of a held-out utterance, how much of its audio is in another part. parts: of each row."""
        details: dict[int, str] = {}
        for a, name_a, b, name_b, seconds in self._spill.read(0):
            for row, other, name in ((a, b, name_b), (b, a, name_a)):
                if parts[other] != parts[row] != PARTS.index("train"):
                    part = PARTS[parts[other]]
                    detail = f"{seconds:.2f} s of its audio are in {name!r} too, which is in {part}"
                    details.setdefault(row, detail)
        return details
