"""The table of a prepared part, one row an utterance, as Parquet. `maya prepare` writes it.

    table = Table.open("data/train.parquet")
    table.numbers("duration").sum() / 3600               # columns: only those asked for are read
    for entry in table.entries(): ...                    # rows, see maya.data.measure.entry
    for cut in table.cuts().filter(...): ...             # a lazy lhotse CutSet
    cuts("data/train.parquet").to_file("cuts.jsonl.gz")  # for other tools

Audio stays where it was: `path` is a file, or a tar of which the audio is `size` bytes from `offset`. How
many tokens a text has depends on the tokenizer, of which several may be trained on one table: they are kept
beside the tokenizer (maya.data.table.token_table).
"""

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maya.data.measure.entry import SOUND_FIELDS, Entry
from maya.data.table.labels import NO_TRUTH, PSEUDO, LabelColumns, encoded
from maya.errors import MayaError

if TYPE_CHECKING:
    from lhotse import CutSet

_VERSION = "1"  # of the columns and what they mean
_GROUP = 16_384  # rows that are read together: 10 MB of text at most, and 600 groups in 10 million rows
_REPEATED = ("path", "language", "speaker", "kind", "source", "licence")  # few values: kept as a dictionary
_OPTIONAL = (
    "offset", "size", "member", "start", "kind", "source", "licence", *SOUND_FIELDS, "channel", "labels"
)  # fmt: skip
_LATER = ("channel", "labels")  # columns that tables of earlier releases lack; they count as empty
_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string()}
_HELD_GROUPS = 4
_FEW = 8  # rows of a group, which are read one by one
_CONTENT = ("id", "language", "text", "duration")


def _field(name: str) -> pa.Field:
    """The column of a field of Entry."""
    if name == "labels":
        return pa.field(name, pa.map_(pa.string(), pa.string()))
    hint = Entry.__annotations__[name]
    kind = next(kind for kind in _TYPES if kind is hint or kind in getattr(hint, "__args__", ()))
    column = pa.float32() if name in SOUND_FIELDS else _TYPES[kind]
    return pa.field(name, column, nullable=name in _OPTIONAL)


SCHEMA = pa.schema([_field(name) for name in Entry._fields], metadata={"maya.table": _VERSION})
"""The columns, named and typed as the fields of `Entry`."""


def part_path(data: Path, part: str) -> Path:
    """Where the table of train, dev or test lies in a folder that `maya prepare` wrote."""
    return data / f"{part}.parquet"


def cuts(path: Path | str) -> "CutSet":
    """The table as a lazy CutSet; see `Table.cuts`. Raises MayaError as `Table.open` does."""
    return Table.open(path).cuts()


def write_table(path: Path, entries: Iterable[Entry]) -> int:
    """Write a table and return its number of rows. The same entries give the same bytes."""
    with TableWriter(path) as writer:
        for entry in entries:
            writer.add(entry)
    return writer.rows


class TableWriter:
    """A table that is written row by row, a group of rows in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._digest, self._texts = hashlib.sha256(), hashlib.sha256()
        self._names: set[str] = set()
        self._group: list[Entry] = []
        self._writer = pq.ParquetWriter(
            path, SCHEMA, use_dictionary=list(_REPEATED), compression="zstd", write_page_checksum=True
        )

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.close()

    def add(self, entry: Entry) -> None:
        """Write a row."""
        self._group.append(entry)
        if len(self._group) == _GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the last rows, and what is noted of all."""
        if self._group:
            self._write_group()
        facts = {
            "digest": self._digest.hexdigest(),
            "texts": self._texts.hexdigest(),
            "labels": json.dumps(sorted(self._names)),
        }
        self._writer.add_key_value_metadata({f"maya.{name}": value for name, value in facts.items()})
        self._writer.close()

    def _write_group(self) -> None:
        *values, labels = zip(*self._group, strict=True)
        pairs = [sorted(item.items()) or None for item in labels]  # None: no labels
        columns = [pa.array(v, field.type) for v, field in zip([*values, pairs], SCHEMA, strict=True)]
        group = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        self._writer.write_batch(group, row_group_size=_GROUP)
        self._digest.update(group.serialize())
        for entry in self._group:
            self._texts.update(f"{entry.language}\0{entry.text}\n".encode("utf-8", "surrogateescape"))
            self._names.update(entry.labels)
        self.rows += len(self._group)
        self._group = []


class Strings(Sequence[str]):
    """A column of text that stays in Arrow's memory; a value becomes a str when it is read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = column.chunks
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= index < len(self):
            raise IndexError(index)
        chunk = int(np.searchsorted(self._ends, index, side="right"))
        return self._chunks[chunk][index - (self._ends[chunk - 1] if chunk else 0)].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from chunk.to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))


class Table:
    """A table on disk. Columns and rows are read when needed; forked workers share them.

    Numbers of rows go from 0. All methods raise MayaError where the file turns out to be damaged.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path, self._file = path, file
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._ends = np.cumsum([0, *counts])
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def open(cls, path: Path | str) -> "Table":
        """Read the head of a table. Raises MayaError, in one sentence, when there is none, it is truncated or
        no Parquet, or lacks a column or has one of another type."""
        path = Path(path)
        if not path.is_file():
            raise MayaError(f"there is no table {path}; run stage 1 (prepare) first")
        with _reading(path):
            head = pq.ParquetFile(path)
            _check_schema(path, head.schema_arrow)
            options = {"read_dictionary": list(_REPEATED), "page_checksum_verification": True}
            file = pq.ParquetFile(path, metadata=head.metadata, **options)
            return cls(path, file)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """A hash of all rows, as they were when the table was written."""
        return self._noted(b"maya.digest")

    @property
    def texts_digest(self) -> str:
        """A hash of all languages and texts in order; of all rows in tables of earlier versions."""
        return self._noted(b"maya.texts") or self.digest

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels that rows have, sorted."""
        try:
            return tuple(map(str, json.loads(self._noted(b"maya.labels") or "[]")))
        except (ValueError, TypeError):
            raise MayaError(f"{self.path} cannot be read: its list of labels is damaged; {_AGAIN}") from None

    def _noted(self, key: bytes) -> str:
        value: bytes = (self._file.metadata.metadata or {}).get(key, b"")
        return value.decode("utf-8", "replace")

    def content_digest(self) -> str:
        """A hash of id, language, text, duration and labels of every row, in order.

        It does not depend on where the audio files lie. Reads the table, 0.7 s a million rows.
        """
        names = [*_CONTENT, *(["labels"] if self.label_names else [])]  # as before where there are none
        digest = hashlib.sha256()
        for group in range(self._file.num_row_groups):
            rows = self._group(group, names)
            columns = [rows.column(name).cast(SCHEMA.field(name).type).combine_chunks() for name in names]
            digest.update(pa.RecordBatch.from_arrays(columns, names=names).serialize())
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """A spawned worker opens it again."""
        return Table.open, (self.path,)

    def require_true_texts(self) -> "Table":
        """The table. Raises MayaError where a model wrote some texts: a score would count its errors as
        truth."""
        if PSEUDO in self.label_names:
            count = sum(PSEUDO in labels for (labels,) in self.read("labels"))
            raise MayaError(f"{self.path}: {count} utterances {NO_TRUTH}; choose a part that people wrote")
        return self

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as Arrow has it, read anew; repeated strings as dictionaries. For the fields see Entry."""
        if self._lacks(name):
            return pa.chunked_array([pa.nulls(len(self), SCHEMA.field(name).type)])
        with _reading(self.path):
            read = self._file.read([name], use_threads=False)
            read.validate(full=True)
            if len(read) != len(self):
                raise pa.ArrowInvalid(f"column {name!r} has {len(read)} rows of {len(self)}")
        return read.column(0)

    def _group(self, number: int, names: list[str]) -> pa.Table:
        """These columns of one group of rows. Arrow takes a dictionary's codes as they stand in the file, and
        one that points past a damaged dictionary fails only where it is used; so they are looked at here."""
        with _reading(self.path):
            read = self._file.read_row_group(number, names, use_threads=False)
            read.validate(full=True)
        return read

    @cached_property
    def _lacking(self) -> frozenset[str]:
        return frozenset(n for n in _LATER if self._file.schema_arrow.get_field_index(n) < 0)

    def _lacks(self, name: str) -> bool:
        return name in self._lacking

    def numbers(self, name: str) -> NDArray[Any]:
        """A column of numbers: (n,) int64, float64, or float32 of how it sounds. Where there is none: NaN,
        and -1 for offset, size and channel."""
        column = self.column(name)
        if pa.types.is_integer(column.type):
            column = column.fill_null(-1) if column.null_count else column
        return column.to_numpy()

    def strings(self, name: str) -> Strings:
        """A column of text."""
        return Strings(self.column(name))

    def codes(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """A column of repeated strings (path, language, speaker, kind, source, licence): ((n,) index of each
        row's value, -1 where there is none; the values, in the order they first occur)."""
        column = self.column(name).unify_dictionaries()
        if not column.num_chunks:
            return np.zeros(0, np.int32), []
        values = column.chunk(0).dictionary.to_pylist()
        parts = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in column.chunks]
        return np.concatenate(parts).astype(np.int32, copy=False), values

    @cached_property
    def ids(self) -> Strings:
        """Names of the utterances."""
        return self.strings("id")

    def row_of(self, id: str) -> int:
        """The number of the row with this id; KeyError if there is none. Looks at all of them."""
        row: int = pc.index(self.column("id"), id).as_py()
        if row < 0:
            raise KeyError(id)
        return row

    def read(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row, a group of rows in memory at a time:
        `for language, text in table.read("language", "text")`."""
        for group in range(self._file.num_row_groups):
            some = self._group(group, [name for name in names if not self._lacks(name)])
            yield from self._values(some, names)

    def _values(self, some: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row."""
        columns = [_values(some.column(n)) if n not in self._lacking else [None] * len(some) for n in names]
        if "labels" in names:
            place = names.index("labels")
            columns[place] = [dict(pairs or ()) for pairs in columns[place]]
        return zip(*columns, strict=True)

    def entries(self, rows: Iterable[int] | None = None) -> Iterator[Entry]:
        """All rows in order, or those with these numbers, cheap where they lie near each other."""
        if rows is None:
            yield from itertools.starmap(Entry, self.read(*Entry._fields))
            return
        for group, some in itertools.groupby(rows, self._group_of):
            wanted = list(some)
            if len(wanted) < _FEW:
                yield from map(self.entry, wanted)
            else:
                held = self._held(group).take(np.array(wanted) - self._ends[group])
                yield from itertools.starmap(Entry, self._values(held, Entry._fields))

    def entry(self, row: int) -> Entry:
        """One row. IndexError where there is none."""
        group = self._group_of(row)
        held = self._held(group).slice(row - int(self._ends[group]), 1)
        return Entry(*next(self._values(held, Entry._fields)))

    def _group_of(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return int(np.searchsorted(self._ends, row, side="right")) - 1

    def _held(self, group: int) -> pa.Table:
        """All columns of a group of rows, of which the last few are kept."""
        if group not in self._groups:
            self._groups[group] = self._group(group, [n for n in Entry._fields if not self._lacks(n)])
            while len(self._groups) > _HELD_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[group]

    def audio(self, row: int) -> Entry:
        """The entry of one row with the fields of its audio alone; texts are empty.

        It costs some µs for any row. The first call reads the columns, about 100 bytes a row.
        """
        a = self._audio
        in_tar = a.offset[row] >= 0
        return Entry(
            id=self.ids[row],
            path=a.path[row],
            offset=int(a.offset[row]) if in_tar else None,
            size=int(a.size[row]) if in_tar else None,
            member=None,
            file_size=int(a.file_size[row]),
            file_mtime=int(a.file_mtime[row]),
            sample_rate=int(a.sample_rate[row]),
            channels=int(a.channels[row]),
            num_samples=int(a.num_samples[row]),
            start=None if np.isnan(a.start[row]) else float(a.start[row]),
            duration=float(a.duration[row]),
            channel=int(a.channel[row]) if a.channel[row] >= 0 else None,
        )

    @cached_property
    def durations(self) -> NDArray[np.float64]:
        """(n,) seconds."""
        return self.numbers("duration")

    @cached_property
    def _audio(self) -> "_Audio":
        return _Audio(self)

    @cached_property
    def labels(self) -> LabelColumns:
        """The labels of all rows, the speaker among them where the corpus names one."""
        columns: dict[str, list[pa.Array]] = {name: [] for name in ("speaker", *self.label_names)}
        fields = ["id", "speaker", *(["labels"] if self.label_names else [])]
        for number in range(self._file.num_row_groups):
            read = self._group(number, fields)
            with _reading(self.path):
                group = read.combine_chunks()
                speaker = group.column("speaker").cast(pa.string())
                speaker = pc.if_else(pc.equal(speaker, group.column("id")), None, speaker)
                columns["speaker"] += speaker.chunks
                for name in self.label_names:
                    columns[name] += pc.map_lookup(group.column("labels"), name, "first").chunks
        return LabelColumns({name: encoded(chunks) for name, chunks in columns.items()})

    def cuts(self) -> "CutSet":
        """A lazy CutSet: iterating reads a group of rows at a time, an index one group."""
        from lhotse import CutSet  # noqa: PLC0415  slow to import, and a table needs it only here

        from maya.data.table.cuts import LazyCuts  # noqa: PLC0415

        return CutSet(LazyCuts(self))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; each that a dictionary holds is made once."""
    if column.null_count == len(column):
        return [None] * len(column)
    if not pa.types.is_dictionary(column.type) or any(len(c) < len(c.dictionary) for c in column.chunks):
        return column.to_pylist()
    result: list[Any] = []
    for chunk in column.chunks:
        words = [*chunk.dictionary.to_pylist(), None]
        result += map(words.__getitem__, chunk.indices.fill_null(len(words) - 1).to_pylist())
    return result


class _Audio:
    """The columns that tell where the audio is, with small types where they do."""

    def __init__(self, table: Table) -> None:
        self.path = table.strings("path")
        self.offset, self.size = table.numbers("offset"), table.numbers("size")
        self.file_size, self.file_mtime = table.numbers("file_size"), table.numbers("file_mtime")
        self.sample_rate = table.numbers("sample_rate").astype(np.int32)
        self.channels = table.numbers("channels").astype(np.int16)
        self.num_samples = table.numbers("num_samples")
        self.start, self.duration = table.numbers("start"), table.durations
        self.channel = table.numbers("channel").astype(np.int16)


_AGAIN = "prepare the data again"


def _check_schema(path: Path, schema: pa.Schema) -> None:
    """MayaError unless these are the columns of a table; others beside them are left alone."""
    version = (schema.metadata or {}).get(b"maya.table", b"").decode("utf-8", "replace")
    if version != _VERSION:
        problem = f"of version {version}, not {_VERSION}" if version else "no table that maya prepare wrote"
        raise MayaError(f"{path} is {problem}; {_AGAIN}")
    for field in SCHEMA:
        index = schema.get_field_index(field.name)
        if index < 0 and field.name in _LATER:
            continue
        if index < 0:
            raise MayaError(f"{path} has no column {field.name!r}; {_AGAIN}")
        column = schema.field(index)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if kind != field.type:
            raise MayaError(f"{path}: the column {field.name!r} holds {kind}, not {field.type}; {_AGAIN}")
        if column.nullable and not field.nullable:
            raise MayaError(f"{path}: the column {field.name!r} may lack values, and must not; {_AGAIN}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of reading into a MayaError in one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise MayaError(
            f"{path} cannot be read: it is truncated, damaged or no Parquet file ({lines[0][:120]}); {_AGAIN}"
        ) from None
