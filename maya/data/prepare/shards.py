"""A corpus in shards: some thousand rows each, which any process can check without the others.

A shard is a folder, which appears when all of it is written, so that a run that was killed goes on with the
first that is missing:

    entries.parquet      utterances that can be used, a table (maya.data.table.table)
    extra.parquet        of each of these: part and subset that the corpus names, and keys (see columns)
    problems.parquet     utterances that cannot be used, and what is suspect about the sound of the others
    rows.parquet         keys of the ids of all rows that were read
    audio_files.arrow    the files of the rows, as they were before anything was measured
    facts.json           counts, notes, and an identity: what all of it was made from
"""

import hashlib
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maya.audio.byte_ranges import read_range
from maya.config import to_dict
from maya.data.corpus.folder import label_notes, pieces_of, read_piece, unread_notes, writable_problem
from maya.data.corpus.manifest import PARTS, Problem, ReadOptions, Row, read_lines, short, writable
from maya.data.corpus.pieces import CorpusPiece, grouped
from maya.data.measure.entry import Entry
from maya.data.measure.probe import probe_rows
from maya.data.prepare import audio_files
from maya.data.prepare.audio_checks import check_audio
from maya.data.prepare.columns import MEMORY, Scratch, key, keys, labels_key, occurs_twice
from maya.data.prepare.config import PrepareConfig
from maya.data.table.labels import PSEUDO
from maya.data.table.table import Table, write_table
from maya.errors import MayaError
from maya.files import json_sha256, read_json, write_json
from maya.text.languages import language_code

_VERSION = 2  # of what a shard holds
_MOST = 4000  # shards
_FIRST_BYTES = 1 << 16
READ_ROWS = "read-"  # how folders with rows begin
_ROW, _PROBLEM = "row", "problem"
_ROW_FIELDS, _PROBLEM_FIELDS = [*Row.__dataclass_fields__], [*Problem.__dataclass_fields__]
READ, PROBED, DROPPED, SUSPECT = range(4)  # where a problem was noticed: SUSPECT utterances are kept
_PROBLEMS = pa.schema(
    [
        ("stage", pa.int8()), ("row", pa.int64()), ("id", pa.string()), ("language", pa.string()),
        ("reason", pa.string()), ("detail", pa.string()), ("where", pa.string()), ("text", pa.string()),
    ]
)  # fmt: skip


class Noted(NamedTuple):
    """A problem. stage: where it was noticed; row: of the utterance among those of its shard, -1 where it is
    not one of them; text: as published."""

    stage: int
    row: int
    problem: Problem
    text: str


def write_problems(path: Path, noted: Sequence[Noted]) -> None:
    """Write problems in order."""
    rows = [(n.stage, n.row, *astuple(n.problem), n.text) for n in noted]
    columns = zip(*rows, strict=True) if rows else [[]] * len(_PROBLEMS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _PROBLEMS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=_PROBLEMS), path)


def read_problems(path: Path) -> Iterator[Noted]:
    """The problems in order."""
    for batch in pq.ParquetFile(path).iter_batches(10_000, use_threads=False):
        for stage, row, *fields, text in zip(*(column.to_pylist() for column in batch), strict=True):
            names = ("id", "language", "reason", "detail", "where")
            yield Noted(stage, row, Problem(**dict(zip(names, fields, strict=True))), text)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """corpus: where it is. languages: codes to take, all if empty; language: of utterances that name none.
    keep: the folder for measurements (see measured), or None; made: see ReadOptions. root: where audio with a
    relative path lies, an object store such as s3://bucket/corpus; by default in the corpus."""

    corpus: Path
    cfg: PrepareConfig
    languages: Sequence[str] = ()
    language: str | None = None
    keep: Path | None = None
    made: Path | None = None
    root: str = ""

    def read(self, reading: ReadOptions) -> tuple[list[Row], list[Problem]]:
        """The rows of a piece, or of all, and what cannot be used."""
        rows, problems = read_piece(self.corpus, reading)
        return [*map(self.moved, rows)], problems

    def moved(self, row: Row) -> Row:
        """The row with its audio, or its tar, under `root` unless it has an absolute place."""
        name = row.tar or row.audio
        if not self.root or name.startswith(("/", "s3://")):
            return row
        place = f"{self.root.rstrip('/')}/{name}"
        return replace(row, tar=place) if row.tar else replace(row, audio=place)

    def reading(self, piece: CorpusPiece | None = None, first: bool = True) -> ReadOptions:
        labels = tuple(self.cfg.labels)
        return ReadOptions(language=self.language, made=self.made, labels=labels, piece=piece, first=first)

    def identity(self) -> list[Any]:
        """All that a shard depends on besides its rows."""
        probing = {name: value for name, value in to_dict(self.cfg.probe).items() if name != "num_workers"}
        checks = to_dict(self.cfg.audio_checks), self.cfg.text_checks.compare_audio
        corpus = str(self.corpus.absolute())
        return [_VERSION, corpus, self.root, probing, checks, self.languages, self.language, self.cfg.labels]


class RowsRead(NamedTuple):
    """What was read of a corpus: its rows, those that cannot be used, and how it was read."""

    rows: list[Row]
    problems: list[Problem]
    options: list[ReadOptions]


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard to be made: pieces of the corpus, or `rows`, a file of rows that were read already (see
    ReadRows), with notes on how. check: raise MayaError where it is not made yet."""

    number: int
    folder: Path
    options: ShardOptions
    pieces: tuple[CorpusPiece, ...] = ()
    rows: Path | None = None
    reading: ReadOptions | None = None
    quiet: bool = False
    check: bool = False

    def read(self) -> RowsRead:
        result = RowsRead([], [], [self.reading] if self.reading else [])
        if self.rows is not None:
            for kind, *values in map(json.loads, read_lines(self.rows)):
                if kind == _ROW:
                    result.rows.append(Row(**dict(zip(_ROW_FIELDS, values, strict=True))))
                else:
                    result.problems.append(Problem(**dict(zip(_PROBLEM_FIELDS, values, strict=True))))
        for place, piece in enumerate(self.pieces):
            reading = self.options.reading(piece, first=self.number == place == 0)
            rows, problems = self.options.read(reading)
            result.rows.extend(rows)
            result.problems.extend(problems)
            result.options.append(reading)
        return result

    def identity(self) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(f"{piece.path}:{piece.first_line}\n".encode("utf-8", "surrogateescape"))
            for block in piece.blocks():
                digest.update(block)
        for block in CorpusPiece(self.rows).blocks() if self.rows else ():
            digest.update(block)
        return json_sha256([self.options.identity(), digest.hexdigest()])


class ReadRows:
    """The rows of a corpus that cannot be read in pieces, in files of `size` rows, each for a shard, as JSON
    lines. They are read once, and only some thousand are in memory. part, of: keep those of every `of`-th
    shard only, beginning with number `part` (from 0)."""

    def __init__(self, options: ShardOptions, folder: Path, part: int = 0, of: int = 1) -> None:
        self.options, self.folder, self._part, self._of = options, folder, part, of
        self.reading = replace(options.reading(), sink=self._add)
        self.rows = 0
        self._keys = array("Q")
        folder.mkdir(parents=True, exist_ok=True)
        self._add(*read_piece(options.corpus, self.reading))
        if not self.rows:
            options.read(options.reading())  # says why
        self._check_ids()

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

    def jobs(self, folder: Path, check: bool) -> list[ShardJob]:
        """The shards that are kept."""
        reading = replace(self.reading, sink=None)
        return [
            ShardJob(
                number=number,
                folder=folder / f"{number:06d}",
                options=self.options,
                rows=self.path(number),
                reading=None if number else reading,
                check=check,
            )
            for number in range(self._part, -(-self.rows // self.options.cfg.shard_rows), self._of)
        ]

    def _add(self, rows: list[Row], problems: list[Problem]) -> None:
        size = self.options.cfg.shard_rows
        while rows:
            some, rows = rows[: size - self.rows % size], rows[size - self.rows % size :]
            moved = map(self.options.moved, some)
            self._write(self.rows, [(_ROW, *(getattr(row, name) for name in _ROW_FIELDS)) for row in moved])
            self._keys.extend(key(row.id) for row in some)
            self.rows += len(some)
        written = [(_PROBLEM, *astuple(writable_problem(problem))) for problem in problems]
        self._write(max(0, self.rows - 1), written)

    def _write(self, row: int, lines: Sequence[tuple[Any, ...]]) -> None:
        """Add lines to the file of the shard that this row belongs to."""
        number = row // self.options.cfg.shard_rows
        if lines and number % self._of == self._part:
            with self.path(number).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, default=dict) + "\n" for line in lines)

    def _check_ids(self) -> None:
        """MayaError for an id that occurs twice, of which the reader itself notices only those close by."""
        column = np.frombuffer(self._keys, np.uint64)
        if not (twice := set(column[occurs_twice(column)].tolist())):
            return
        first: dict[str, Row] = {}

        def look(rows: list[Row], problems: list[Problem]) -> None:
            for row in rows:
                if key(row.id) in twice and (other := first.setdefault(row.id, row)) is not row:
                    raise MayaError(id_occurs_twice(row, other))

        look(*read_piece(self.options.corpus, replace(self.options.reading(), sink=look)))


def id_occurs_twice(row: Row, first: Row) -> str:
    """The sentence for people."""
    return f"{row.where}: the id {short(row.id)} occurs in {first.where} already; ids must differ"


def shard_jobs(
    options: ShardOptions, folder: Path, *, part: int = 1, of: int = 1, check: bool = False
) -> list[ShardJob]:
    """The shards of a corpus, in `folder`, or every `of`-th of them from number `part` (from 1). A corpus
    that cannot be divided is read now; its rows are in a folder read-* beside `folder`, until forget_rows
    removes it."""
    pieces = grouped(pieces_of(options.corpus, options.cfg.shard_rows), _MOST)
    if not pieces:
        keep = folder.with_name(f"{READ_ROWS}{uuid4().hex[:12]}")
        return ReadRows(options, keep, part - 1, of).jobs(folder, check)
    return [
        ShardJob(number=n, folder=folder / f"{n:06d}", options=options, pieces=some, check=check)
        for n, some in enumerate(pieces)
    ][part - 1 :: of]


def forget_rows(jobs: Iterable[ShardJob]) -> None:
    """Remove the rows that were read for these shards."""
    for folder in {job.rows.parent for job in jobs if job.rows}:
        shutil.rmtree(folder, ignore_errors=True)


def forget_shards(folder: Path) -> None:
    """Remove the shards, and rows that killed processes left there."""
    for path in (folder, *folder.parent.glob(f"{READ_ROWS}*")):
        shutil.rmtree(path, ignore_errors=True)


def run_shard(job: ShardJob) -> Path:
    """Make a shard, unless it is there already and the audio is still the same; its folder.

    Raises MayaError for a piece that cannot be read, and where `job.check` asks for a shard that is missing.
    """
    identity, folder = job.identity(), job.folder
    problem = f"shard {job.number} of {job.options.corpus} is not prepared, or not with these options"
    if read_json(folder / "facts.json").get("identity") == identity:
        before = audio_files.read(folder / audio_files.NAME)
        changed = before.changed(before.now()) if before is not None else ["its list of audio files"]
        if not changed:
            return folder
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        problem = f"{changed[0]}{others} changed since shard {job.number} was prepared"
    if job.check:
        raise MayaError(f"{problem}; run the part that it belongs to again (--part), and then --merge")
    cfg, options, read = job.options.cfg, job.options, job.read()
    selected = [row for row in read.rows if not options.languages or row.language in options.languages]
    audio = audio_files.of_rows(options.corpus, selected)  # first: later changes are then noticed
    usable, unusable, names = probe_rows(options.corpus, selected, cfg.probe, options.keep, quiet=job.quiet)
    good, suspect, bad = check_audio(usable, cfg.audio_checks)
    texts = {row.id: row.text for row in selected}
    places = {entry.id: place for place, entry in enumerate(good)}
    stages = (
        (READ, map(with_code, read.problems)), (PROBED, unusable), (DROPPED, bad), (SUSPECT, suspect)
    )  # fmt: skip
    noted = [Noted(s, places.get(p.id, -1), p, texts.get(p.id, "")) for s, some in stages for p in some]
    facts = {
        "identity": identity,
        "notes": [writable(note) for reading in read.options for note in reading.notes],
        "unread": [reading.unread for reading in read.options],
        "labels": sorted({name for row in read.rows for name in row.labels}),
        "measured": names,
        "languages": dict(Counter(row.language for row in read.rows)),
        "unnamed": sum(row.speaker is None for row in selected),
    }
    partial = folder.with_name(f"{folder.name}.{uuid4().hex[:12]}.partial")  # others may make it, too
    partial.mkdir(parents=True)
    write_entries(partial, good, {row.id: row for row in selected}, compare=cfg.text_checks.compare_audio)
    write_problems(partial / "problems.parquet", noted)
    pq.write_table(pa.table({"id": keys(row.id for row in read.rows)}), partial / "rows.parquet")
    audio.write(partial / audio_files.NAME)
    write_json(partial / "facts.json", facts)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.rename(folder)
    except OSError:  # another process was as fast
        if read_json(folder / "facts.json").get("identity") != identity:
            raise
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def row_keys(job: ShardJob) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """The keys of ids, texts and languages of the rows of a shard, which are read for it."""
    rows = job.read().rows
    return keys(r.id for r in rows), keys(r.text for r in rows), keys(r.language for r in rows)


def write_entries(
    folder: Path, entries: Sequence[Entry], rows: Mapping[str, Row], *, compare: bool = True
) -> None:
    """Write the utterances of a shard and their keys. rows: by id, for what the corpus says of the split.
    compare: whether to look for utterances with the same audio."""
    write_table(folder / "entries.parquet", entries)
    named = [row.split if (row := rows.get(entry.id)) else None for entry in entries]
    subsets = [row.subset if (row := rows.get(entry.id)) else None for entry in entries]
    audio = (_audio_key(entry) if compare else 0 for entry in entries)
    columns = {
        "named": pa.array([-1 if part is None else PARTS.index(part) for part in named], pa.int8()),
        "subset": pa.array(subsets, pa.string()),
        "id": keys(entry.id for entry in entries),
        "speaker": keys(entry.speaker for entry in entries),
        "text": keys(entry.text for entry in entries),
        "raw_text": keys(entry.raw_text for entry in entries),
        "labels": np.fromiter((labels_key(entry.labels) for entry in entries), np.uint64),
        "recording": np.fromiter((key(entry.path, entry.offset) for entry in entries), np.uint64),
        "audio": np.fromiter(audio, np.uint64),
        "pseudo": np.fromiter((PSEUDO in entry.labels for entry in entries), np.bool_),
        "words": np.fromiter((len(entry.text.split()) for entry in entries), np.int32),
    }
    pq.write_table(pa.table(columns), folder / "extra.parquet")


def _audio_key(entry: Entry) -> int:
    """Equal for utterances that may have the same audio (see maya.data.prepare.text_checks.same_audio)."""
    if entry.start is not None:
        return key("part", entry.path, entry.offset, entry.channel, entry.start, entry.duration)
    size = entry.file_size if entry.size is None else entry.size
    data = read_range(entry.path, entry.offset or 0, min(size, _FIRST_BYTES))
    return key(size, entry.channel, hashlib.blake2b(data, digest_size=16).hexdigest())


def with_code(dropped: Problem) -> Problem:
    """With the code that rows have, where its language is one; readers keep what the corpus says."""
    try:
        return replace(dropped, language=language_code(dropped.language)) if dropped.language else dropped
    except MayaError:
        return dropped


class Shards:
    """All shards of a corpus, whose utterances are numbered through. scratch: for their columns."""

    def __init__(self, folders: Sequence[Path], scratch: Scratch = MEMORY) -> None:
        self.folders, self.scratch = list(folders), scratch
        self.facts = [read_json(folder / "facts.json") for folder in folders]
        counts = [len(Table.open(folder / "entries.parquet")) for folder in folders]
        self.ends = np.cumsum([0, *counts])

    def __len__(self) -> int:
        """Number of utterances."""
        return int(self.ends[-1])

    def table(self, number: int) -> Table:
        return Table.open(self.folders[number] / "entries.parquet")

    def tables(self) -> Iterator[tuple[int, Table]]:
        """(its first utterance, the table) of each shard."""
        for number in range(len(self.folders)):
            yield int(self.ends[number]), self.table(number)

    def extra(self, name: str) -> NDArray[Any]:
        """(n,) a column of extra.parquet."""
        files = (folder / "extra.parquet" for folder in self.folders)
        return self._column(pq.read_table(file, columns=[name])[name].to_numpy() for file in files)

    def row_ids(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """(the keys of the ids of all rows that were read; where those of each shard end)."""
        files = [folder / "rows.parquet" for folder in self.folders]
        ends = np.cumsum([pq.read_metadata(file).num_rows for file in files])
        parts = (pq.read_table(file)["id"].to_numpy() for file in files)
        return self.scratch.joined(parts, int(ends[-1]), np.uint64), ends

    def numbers(self, name: str) -> NDArray[Any]:
        """(n,) a column of the tables."""
        return self._column(table.numbers(name) for _, table in self.tables())

    def _column(self, parts: Iterator[NDArray[Any]]) -> NDArray[Any]:
        first = next(parts)
        return self.scratch.joined(chain([first], parts), len(self), first.dtype)

    @cached_property
    def languages(self) -> tuple[NDArray[np.int16], list[str]]:
        """((n,) index of each utterance's language; the codes, in the order in which they first occur)."""
        codes: dict[str, int] = {}
        parts = []
        for _, table in self.tables():
            numbers, names = table.codes("language")
            parts.append(np.array([codes.setdefault(n, len(codes)) for n in names], np.int16)[numbers])
        return self.scratch.joined(parts, len(self), np.int16), list(codes)

    def problems(self, *stages: int) -> Iterator[tuple[int, Noted]]:
        """(number of its shard, problem) of each of these stages, one stage after the other."""
        for stage in stages:
            for number, folder in enumerate(self.folders):
                for noted in read_problems(folder / "problems.parquet"):
                    if noted.stage == stage:
                        yield number, noted

    def notes(self, labels: Iterable[str]) -> list[str]:
        """Sentences for people on what was read. labels: that were asked for."""
        notes = dict.fromkeys(note for facts in self.facts for note in facts["notes"])
        unread = [ReadOptions(unread=some) for facts in self.facts for some in facts["unread"]]
        given = {name for facts in self.facts for name in facts["labels"]}
        return [*notes, *map(writable, unread_notes(unread)), *label_notes(given, labels)]
