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
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maya.audio.byte_ranges import read_range
from maya.config import to_dict
from maya.data.corpus.folder import label_notes, pieces_of, read_piece, unread_notes
from maya.data.corpus.manifest import PARTS, Problem, ReadOptions, Row, writable
from maya.data.corpus.pieces import CorpusPiece, grouped
from maya.data.measure.entry import Entry
from maya.data.measure.probe import probe_rows
from maya.data.prepare import audio_files
from maya.data.prepare.audio_checks import check_audio
from maya.data.prepare.columns import key, keys, labels_key
from maya.data.prepare.config import PrepareConfig
from maya.data.table.labels import PSEUDO
from maya.data.table.table import Table, write_table
from maya.errors import MayaError
from maya.files import json_sha256, read_json, write_json
from maya.text.languages import language_code

_VERSION = 2  # of what a shard holds
_MOST = 4000  # shards
_FIRST_BYTES = 1 << 16
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
        return [_moved(row, self.root) for row in rows] if self.root else rows, problems

    def reading(self, piece: CorpusPiece | None = None, first: bool = True) -> ReadOptions:
        labels = tuple(self.cfg.labels)
        return ReadOptions(language=self.language, made=self.made, labels=labels, piece=piece, first=first)

    def identity(self) -> list[Any]:
        """All that a shard depends on besides its rows."""
        probing = {name: value for name, value in to_dict(self.cfg.probe).items() if name != "num_workers"}
        checks = to_dict(self.cfg.audio_checks), self.cfg.text_checks.compare_audio
        corpus = str(self.corpus.absolute())
        return [_VERSION, corpus, self.root, probing, checks, self.languages, self.language, self.cfg.labels]


def _moved(row: Row, root: str) -> Row:
    """The row with its audio, or its tar, under `root` unless it has an absolute place."""
    name = row.tar or row.audio
    if name.startswith(("/", "s3://")):
        return row
    place = f"{root.rstrip('/')}/{name}"
    return replace(row, tar=place) if row.tar else replace(row, audio=place)


class RowsRead(NamedTuple):
    """What was read of a corpus: its rows, those that cannot be used, and how it was read."""

    rows: list[Row]
    problems: list[Problem]
    options: list[ReadOptions]


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard to be made: pieces of the corpus, or rows that were read already. check: raise MayaError where
    it is not made yet."""

    number: int
    folder: Path
    options: ShardOptions
    pieces: tuple[CorpusPiece, ...] = ()
    given: RowsRead | None = None
    quiet: bool = False
    check: bool = False

    def read(self) -> RowsRead:
        if self.given is not None:
            return self.given
        result = RowsRead([], [], [])
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
        for item in (*self.given.rows, *self.given.problems) if self.given else ():
            digest.update(repr(item).encode("utf-8", "backslashreplace"))
        return json_sha256([self.options.identity(), digest.hexdigest()])


def shard_jobs(options: ShardOptions, folder: Path, *, check: bool = False) -> list[ShardJob]:
    """The shards of a corpus, in `folder`. A corpus that cannot be divided is read now."""
    pieces = grouped(pieces_of(options.corpus, options.cfg.shard_rows), _MOST)
    made: list[dict[str, Any]] = [{"pieces": some} for some in pieces]
    if not pieces:
        reading, size = options.reading(), options.cfg.shard_rows
        rows, problems = options.read(reading)
        made = [
            {"given": RowsRead(rows[i : i + size], [] if i else problems, [] if i else [reading])}
            for i in range(0, len(rows), size)
        ]
    return [
        ShardJob(number=number, folder=folder / f"{number:06d}", options=options, check=check, **contents)
        for number, contents in enumerate(made)
    ]


def run_shard(job: ShardJob) -> Path:
    """Make a shard, unless it is there already and the audio is still the same; its folder.

    Raises MayaError for a piece that cannot be read, and where `job.check` asks for a shard that is missing.
    """
    identity, folder = job.identity(), job.folder
    if read_json(folder / "facts.json").get("identity") == identity:
        before = audio_files.read(folder / audio_files.NAME)
        if before is not None and before.now().digest() == before.digest():
            return folder
    if job.check:
        raise MayaError(
            f"shard {job.number} of {job.options.corpus} is not prepared, or its audio changed since; run "
            "the part that it belongs to again (--part), and then --merge"
        )
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
    """All shards of a corpus, whose utterances are numbered through."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
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
        return np.concatenate([pq.read_table(file, columns=[name])[name].to_numpy() for file in files])

    def row_ids(self) -> list[NDArray[np.uint64]]:
        """By shard, the keys of the ids of all rows that were read."""
        return [pq.read_table(folder / "rows.parquet")["id"].to_numpy() for folder in self.folders]

    def numbers(self, name: str) -> NDArray[Any]:
        """(n,) a column of the tables."""
        return np.concatenate([table.numbers(name) for _, table in self.tables()])

    @cached_property
    def languages(self) -> tuple[NDArray[np.int16], list[str]]:
        """((n,) index of each utterance's language; the codes, in the order in which they first occur)."""
        codes: dict[str, int] = {}
        parts = []
        for _, table in self.tables():
            numbers, names = table.codes("language")
            parts.append(np.array([codes.setdefault(n, len(codes)) for n in names], np.int16)[numbers])
        return np.concatenate([np.zeros(0, np.int16), *parts]), list(codes)

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
