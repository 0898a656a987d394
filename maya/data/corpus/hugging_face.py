"""Data sets of Hugging Face on disk: written by `save_to_disk` (Arrow), or Parquet files of the hub.

They are read with pyarrow; `datasets` is not needed. Audio inside a file is written to a tar once and read
from there, because Parquet compresses pages: no byte range of the file is an audio file. Audio that is stored
by its path is read in place.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from maya.audio.byte_ranges import file_stamp
from maya.audio.tar_index import TarMember, index_tar
from maya.data.corpus.common import folder_language, merged, part_in_name, unused
from maya.data.corpus.manifest import ReadOptions, Result, RowCollector, labels_in
from maya.data.corpus.metadata import COLUMNS
from maya.data.corpus.walk import walk
from maya.errors import MayaError
from maya.files import sha256, writing

_AT_ONCE = 64  # rows, whose audio is in memory
_ENDINGS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}


class _File(NamedTuple):
    """A file of a data set, and the split that its place names."""

    path: Path
    split: str | None


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk of Hugging Face's datasets wrote a folder."""
    info = (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    return info or (folder / "dataset_dict.json").is_file()


def data_set_files(folder: Path) -> list[Path]:
    """The files of a data set: those that state.json names, or Parquet files with audio at any depth."""
    return [file.path for file in _files(folder)]


def read_hugging_face(folder: Path, options: ReadOptions) -> Result:
    """A row for each row of a data set, and rows without audio.

    Columns: one with audio; text, language, speaker, id and label_NAME as in a metadata.csv. The id is the
    file's name with the row's number unless there is a column for it. Notes name Parquet files and columns
    with audio that are not read. options.made: the folder for tars of
    the audio that lies inside; a tar that exists is not written again. Raises MayaError when a file cannot be
    read, a column is missing, or audio lies inside and `made` is None.
    """
    every = _files(folder)
    files = [file for file in every if options.piece is None or file.path == options.piece.path]
    rows, dropped = merged(_HuggingFaceReader(folder, file, options).read() for file in files)
    if not rows and options.piece is None:
        raise MayaError(f"{folder}: no row of the data set has audio")
    if options.first and not is_saved(folder):
        read = {file.path for file in every}
        others = [path.name for path in walk(folder).files if path.suffix == ".parquet" and path not in read]
        options.notes.extend(unused(others, "Parquet files have no column of audio"))
    return rows, dropped


def _files(folder: Path) -> list[_File]:
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise MayaError(f"{folder / 'dataset_dict.json'} names no splits; save the data set again")
        return [
            _File(path, part_in_name(name)) for name in splits for path in _saved(folder / Path(name).name)
        ]
    if (folder / "state.json").is_file():
        return [_File(path, None) for path in _saved(folder)]
    return [
        _File(path, part_in_name(path.relative_to(folder).as_posix()))
        for path in walk(folder).files
        if path.suffix == ".parquet" and _audio_column(_schema(path)) is not None
    ]


def _saved(folder: Path) -> list[Path]:
    """The files of one data set that save_to_disk wrote."""
    listed = _json(folder / "state.json").get("_data_files")
    try:
        return [folder / Path(file["filename"]).name for file in listed]  # type: ignore[union-attr]
    except (TypeError, KeyError):
        raise MayaError(f"{folder / 'state.json'} names no files; save the data set again") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MayaError(f"cannot read {path}: {error}") from None
    return value if isinstance(value, dict) else {}


class _HuggingFaceReader:
    """Rows of one file."""

    def __init__(self, folder: Path, file: _File, options: ReadOptions) -> None:
        self.folder, self.path, self.split, self.options = folder, file.path, file.split, options
        schema = _schema(file.path)
        audio = _audio_column(schema)
        several = [name for name in _audio_columns(schema) if name != audio]
        for note in unused(several, f"columns hold audio beside {audio!r}"):
            if note not in options.notes:  # every file of a data set has them
                options.notes.append(note)
        if audio is None:
            raise MayaError(
                f"{file.path} has no column with audio (bytes and path), only {', '.join(schema.names)}"
            )
        self.audio = audio
        names = {
            field: next((n for n in options if n in schema.names), None) for field, options in COLUMNS.items()
        }
        if names["text"] is None:
            raise MayaError(
                f"{file.path}: no column holds the text; name it one of {', '.join(COLUMNS['text'])}"
            )
        self.columns = {f: n for f, n in names.items() if n is not None and f != "audio"}
        labels = [n for n in schema.names if n.startswith("label_") or n in options.labels]
        self.selected = list(dict.fromkeys([*self.columns.values(), *labels]))
        self.class_names = _class_names(schema)
        if twice := [name for name in (audio, *self.selected) if schema.names.count(name) > 1]:
            raise MayaError(f"{file.path}: two columns are called {twice[0]!r}; rename one of them")

    def read(self) -> Result:
        collector, tar = RowCollector(self.path), self._tar()
        members = _members(tar) if tar is not None else {}
        for number, given, audio in self._rows(with_audio=False):
            given = {name: self._value(name, value) for name, value in given.items()}
            values = {field: given[name] for field, name in self.columns.items()}
            values = {field: value for field, value in values.items() if value not in (None, "")}
            values["labels"] = labels_in(given, self.options.labels)
            values.setdefault("text", "")
            values.setdefault("id", f"{self._stem()}-{number:06d}")
            split = values.get("split", self.split)
            values["split"] = (isinstance(split, str) and part_in_name(split)) or split
            code = values.get("language") or self.options.language
            place = Path(audio or "x") if number not in members else Path("x")
            relative = self.path.relative_to(self.folder).parent / place
            values["language"] = code or folder_language(relative, f"{self.path}:{number}")
            if number in members and tar is not None:
                member = members[number]
                values |= {"tar": str(tar.resolve()), "audio": member.name, "offset": member.offset,
                           "size": member.size}  # fmt: skip
            elif audio:
                values["audio"] = str(relative)
            else:
                detail = f"row {number} of {self.path} has neither the bytes of its audio nor a path"
                collector.drop(values["id"], values["language"], "missing_audio", detail, number)
                continue
            collector.add(values, number)
        return collector.rows(may_be_none=True), collector.dropped

    def _stem(self) -> str:
        return self.path.relative_to(self.folder).with_suffix("").as_posix()

    def _value(self, name: str, value: Any) -> Any:
        names = self.class_names.get(name, ())
        if type(value) is int and 0 <= value < len(names):
            return names[value]
        return str(value) if type(value) is int else value

    def _tar(self) -> Path | None:
        """The tar of the audio inside the file, written if it is missing; None if there is no audio
        inside."""
        if not _any_inside(self.path, self.audio):
            return None
        if self.options.made is None:
            raise MayaError(
                f"the audio lies inside {self.path}, and has to be written to a tar before it can be looked "
                "at; maya prepare does so"
            )
        stamp = file_stamp(self.path)
        tar = self.options.made / f"{self.path.stem}-{sha256(f'{self.path.resolve()}:{stamp}')[:16]}.tar"
        if not tar.is_file():
            self._write(tar, stamp.mtime)
        return tar

    def _write(self, tar: Path, mtime: int) -> None:
        """The time is that of the data set's file: the tar is the same however often it is made."""
        with writing(tar) as partial:
            with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as file:
                for number, given, path in self._rows(with_audio=True):
                    if data := given[self.audio].get("bytes"):
                        info = tarfile.TarInfo(f"{number:08d}{_ending(data, path)}")
                        info.size, info.mtime = len(data), mtime
                        file.addfile(info, io.BytesIO(data))
            os.utime(partial, (mtime, mtime))

    def _rows(self, with_audio: bool) -> Iterator[tuple[int, dict[str, Any], str | None]]:
        """(number from 1, values by column, path of the audio) of each row."""
        columns, number = self.selected, 0
        for batch in _batches(self.path, [*columns, self.audio]):
            struct = batch.column(self.audio)
            paths = struct.field("path").to_pylist() if "path" in struct.type.names else [None] * len(batch)
            given = batch.select([*columns, *([self.audio] if with_audio else [])]).to_pylist()
            for values, path in zip(given, paths, strict=True):
                number += 1
                if with_audio:
                    values[self.audio] = values[self.audio] or {}
                yield number, values, path


def _members(tar: Path) -> dict[int, TarMember]:
    return {int(member.name.partition(".")[0]): member for member in index_tar(tar)}


def _ending(data: bytes, path: str | None) -> str:
    ending = next((ending for magic, ending in _ENDINGS.items() if data.startswith(magic)), None)
    return ending or Path(path or "x").suffix or ".audio"


def _schema(path: Path) -> pa.Schema:
    with _reading(path):
        return pq.read_schema(path) if path.suffix == ".parquet" else _stream(path).schema


def _stream(path: Path) -> Any:
    """save_to_disk writes Arrow's streaming format; other tools write its file format."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path)))
    except pa.ArrowInvalid:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        return pa.RecordBatchReader.from_batches(
            file.schema, map(file.get_batch, range(file.num_record_batches))
        )


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with _reading(path):
        if path.suffix == ".parquet":
            yield from pq.ParquetFile(path).iter_batches(_AT_ONCE, columns=list(columns), use_threads=False)
            return
        stream = _stream(path)
        for batch in stream:
            selected = batch.select(list(columns))
            selected.validate(full=True)  # Arrow trusts offsets, and would read outside of the file
            for begin in range(0, len(selected), _AT_ONCE):
                yield selected.slice(begin, _AT_ONCE)


def _any_inside(path: Path, audio: str) -> bool:
    """Whether a row has the bytes of its audio."""
    columns = (batch.column(audio).field("bytes") for batch in _batches(path, [audio]))
    return any(len(column) > column.null_count for column in columns)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise MayaError(
            f"{path} cannot be read: it is truncated, damaged or of another kind ({reason}); save it again"
        ) from None


def _audio_column(schema: pa.Schema) -> str | None:
    """The column of audio called audio, speech or wav, else the first."""
    names = _audio_columns(schema)
    return next((name for name in names if name in ("audio", "speech", "wav")), names[0] if names else None)


def _audio_columns(schema: pa.Schema) -> list[str]:
    """Columns of audio: structs of the field bytes, and often a path, that are not called image."""

    def is_audio(field: pa.Field) -> bool:
        kinds = {inner.name: inner.type for inner in field.type} if pa.types.is_struct(field.type) else {}
        return (
            "bytes" in kinds
            and kinds["bytes"] in (pa.binary(), pa.large_binary(), pa.null())
            and kinds.get("path", pa.null()) in (pa.string(), pa.large_string(), pa.null())
            and "image" not in field.name.lower()
        )

    return [field.name for field in schema if is_audio(field)]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the values of columns that hold numbers for them (ClassLabel), by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
