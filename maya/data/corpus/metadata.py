"""`metadata.csv`, `metadata.tsv` and `metadata.jsonl`: a table beside the audio, as Hugging Face's
audiofolder and LJSpeech have it."""

import hashlib
import os.path
from array import array
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maya.data.corpus.common import AUDIO_SUFFIXES, folder_language, joined, part_in_name, unused
from maya.data.corpus.delimited import SEPARATORS, DelimitedFile, Record
from maya.data.corpus.manifest import ReadOptions, Result, Row, RowCollector, labels_in
from maya.data.corpus.walk import walk
from maya.errors import MayaError

# Names that a column of each field may have, the likeliest first.
COLUMNS = {
    "audio": ("audio", "file_name", "filename", "file", "path", "wav", "audio_path", "audio_filepath"),
    "text": ("text", "transcription", "transcript", "sentence", "normalized_text", "normalised_text"),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id",),
    "split": ("split",),
}
_AUDIO_FOLDERS = ("wavs", "wav", "clips", "audio", "")  # where the audio of an id lies
_PART_TABLES = ("train", "dev", "valid", "val", "validation", "test", "eval")


def metadata_tables(folder: Path) -> list[Path]:
    """metadata.csv, else metadata.tsv, else metadata.jsonl: here, or those in the folders of its splits."""
    for name in ("metadata.csv", "metadata.tsv", "metadata.jsonl"):
        if (folder / name).is_file():
            return [folder / name]
    return sorted(
        path
        for name in ("metadata.csv", "metadata.tsv", "metadata.jsonl")
        for path in folder.glob(f"*/{name}")
        if path.is_file() and not path.parent.name.startswith(".")
    )


def part_tables(folder: Path) -> list[Path]:
    """train.csv, dev.tsv and the like, if they have columns for audio and text."""
    return [path for path in _named_as_parts(folder) if _has_columns(path)]


def _named_as_parts(folder: Path) -> list[Path]:
    paths = (folder / f"{stem}.{suffix}" for stem in _PART_TABLES for suffix in ("csv", "tsv"))
    return [path for path in paths if path.is_file()]


def _has_columns(path: Path) -> bool:
    try:
        header = _header(DelimitedFile(path))
    except MayaError:  # whoever reads it will say what is wrong with it
        return True
    names = header[1] if header else []
    return all(any(name in names for name in COLUMNS[field]) for field in ("audio", "text"))


def read_metadata(folder: Path, options: ReadOptions) -> Result:
    """Rows of metadata.csv, .tsv or .jsonl, in the corpus folder or in folders of its splits."""
    tables, files, named = metadata_tables(folder), [], array("Q")
    for path in tables:
        reader = read_metadata_jsonl if path.suffix == ".jsonl" else read_metadata_csv
        inside = path.parent.relative_to(folder).as_posix()
        files.append(reader(path, options, "" if inside == "." else inside, named))
    rows = joined(files)
    _note_unnamed_audio(folder, named, tables[0].name, options.notes)
    return rows, []


def read_part_tables(folder: Path, options: ReadOptions) -> Result:
    """Rows of train.csv, dev.tsv and the like; each file names the part. A note names those without columns
    for audio and text."""
    tables = part_tables(folder)
    others = [path.name for path in _named_as_parts(folder) if path not in tables]
    options.notes.extend(unused(others, "tables have no columns for audio and text"))
    return joined(read_metadata_csv(path, options) for path in tables), []


def _note_unnamed_audio(folder: Path, named: "array[int]", table: str, notes: list[str]) -> None:
    """Note how many audio files no line of the table names. named: keys of those that are named."""
    keys, count, first = np.unique(np.frombuffer(named, np.uint64)), 0, ""

    def look(path: Path) -> None:
        nonlocal count, first
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            return
        for name in (inside := str(path.relative_to(folder)), str(path)):
            place = int(np.searchsorted(keys, np.uint64(key := _audio_key(name))))
            if place < len(keys) and int(keys[place]) == key:
                return
        count, first = count + 1, min(first or inside, inside)

    walk(folder, look)
    if count:
        notes.append(f"{count} audio files are named by no line of {table}, {first} among them")


def _audio_key(path: str) -> int:
    """8 bytes for the path of audio in the corpus."""
    text = os.path.normpath(path).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def read_metadata_csv(
    path: Path, options: ReadOptions, inside: str = "", named: "array[int] | None" = None
) -> list[Row]:
    """Rows of a table with a header line, separated by whichever of tab | , and ; gives the needed columns.

    Columns, in any case: file_name (or audio, path), text (or transcription, sentence), and if there are any
    id, language, speaker, split. The id is the file name without its ending unless there is a column for it.
    Without a column for the audio it is the file of that id. Audio may lie beside the table, or in a folder
    wavs, wav, clips or audio there. A file without a header may have LJSpeech's columns, id|text|normalised
    text, of which the last is taken, or those of file and text.
    inside: the folder it lies in, relative to the corpus; its name (train, dev) may be the split. named: gets
    keys of the audio of the rows. options.labels: columns that hold labels, besides those called label_NAME.
    """
    file = DelimitedFile(path)
    header = _header(file)
    audio_of = _AudioOfIds(path.parent)
    if header is None:
        separator, column, width, skip = *_headerless(file, audio_of), 0
    else:
        separator, names = header
        column, width, skip = _columns(path, names, audio_of), len(names), 1
        column |= _label_columns(names, options.labels)
    place = column["audio"] if column["audio"] is not None else column["id"]

    def is_row(cells: Sequence[str]) -> bool:
        value = cells[place] if place is not None else ""
        return value.lower().endswith(AUDIO_SUFFIXES) or value in audio_of

    collector = RowCollector(path, sink=options.sink)
    for record in file.records(separator, width, is_row, skip):
        if record.problem:
            collector.reject(record.problem, record.number)
        else:
            try:
                values = _record_values(record, column, audio_of, path, inside)
                _add(collector, values, record.number, options.language, named)
            except ValueError as error:
                collector.reject(str(error), record.number)
    return collector.rows()


def _header(file: DelimitedFile) -> tuple[str, list[str]] | None:
    """(separator, names in lower case) of the header; None where the first line is an utterance's."""
    every = {name for names in COLUMNS.values() for name in names}
    choices = []
    for separator in SEPARATORS:
        names = [name.strip().lower() for name in file.first(separator)]
        choices.append((len(every.intersection(names)), len(names), separator, names))
    matches, _, separator, names = max(choices)
    return (separator, names) if matches else None


def _columns(path: Path, header: list[str], audio_of: "_AudioOfIds") -> dict[str, int | None]:
    """The place of each field; MayaError where a field is missing or has two columns."""
    column = {f: next((header.index(n) for n in names if n in header), None) for f, names in COLUMNS.items()}
    for place in column.values():
        if place is not None and header.count(header[place]) > 1:
            raise MayaError(f"{path}:1: two columns are called {header[place]!r}; rename one of them")
    for needed in ("audio", "text"):
        if column[needed] is None:
            by_id = needed == "audio" and column["id"] is not None and bool(audio_of)
            if not by_id:
                raise MayaError(_no_column(path, needed))
    return column


def _label_columns(header: list[str], labels: Sequence[str]) -> dict[str, int | None]:
    """The places of the columns that hold labels, each called label_NAME."""
    names = {name.lower(): name for name in labels}
    return {
        name if name.startswith("label_") else f"label_{names[name]}": place
        for place, name in enumerate(header)
        if name.startswith("label_") or name in names
    }


def _no_column(path: Path, field: str) -> str:
    return f"{path}:1: no column holds the {field}; name it one of {', '.join(COLUMNS[field])}"


def _headerless(file: DelimitedFile, audio_of: "_AudioOfIds") -> tuple[str, dict[str, int | None], int]:
    """(separator, columns, number of cells) of a file without a header; MayaError if it is no known form."""
    for separator in SEPARATORS:
        cells = file.first(separator)
        first = [line.split(separator)[0].strip() for _, line in file.head]
        if len(cells) in ((2, 3) if separator == "|" else (2,)) and any(name in audio_of for name in first):
            text, normalised = 1, 2 if len(cells) == 3 else None
            column: dict[str, int | None] = dict.fromkeys(COLUMNS) | {"id": 0, "text": text}
            return separator, column | {"normalised": normalised}, len(cells)
    raise MayaError(
        f"{_no_column(file.path, 'audio')}; a file without a header may read ID|TEXT|NORMALISED TEXT, as "
        "LJSpeech's does, with the audio in wavs/"
    )


class _AudioOfIds:
    """Audio files by their names without suffix, in the folders where a table's audio usually lies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _names(self) -> tuple[dict[str, str], set[str], dict[str, tuple[str, str]]]:
        """(paths by name; names beside the table; stems that two files of one folder have), which a table
        that names its audio with folders does not need."""
        folder, paths, beside = self._folder, dict[str, str](), set[str]()
        twice: dict[str, tuple[str, str]] = {}
        for name in reversed(_AUDIO_FOLDERS):  # what is entered last counts
            inner = folder / name
            for path in sorted(inner.iterdir()) if inner.is_dir() else ():
                if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
                    relative = path.relative_to(folder).as_posix()
                    other = paths.get(path.stem)
                    if other is not None and (folder / other).parent == path.parent:
                        twice[path.stem] = other, relative
                    else:
                        twice.pop(path.stem, None)
                    paths |= {path.stem: relative, path.name: relative}
                    beside |= set() if name else {path.name}
        return paths, beside, twice

    def __bool__(self) -> bool:
        return bool(self._names[0])

    def __contains__(self, name: str) -> bool:
        return Path(name).name in self._names[0]

    def located(self, audio: str) -> str:
        """The path of a file that a table names; where only its folder is left out, with the folder."""
        if "/" in audio:
            return audio
        paths, beside, _ = self._names
        return audio if audio in beside else paths.get(audio, audio)

    def __getitem__(self, name: str) -> str:
        """The path of an id's audio relative to the table; where it would be expected if it is not there.
        ValueError where two files have this name."""
        paths, _, twice = self._names
        if (both := twice.get(Path(name).name)) is not None:
            raise ValueError(f"both {both[0]} and {both[1]} may be its audio; remove one of them")
        return paths.get(Path(name).name, name if Path(name).suffix else f"wavs/{name}.wav")


def _record_values(
    record: Record, column: dict[str, int | None], audio_of: _AudioOfIds, path: Path, inside: str
) -> dict[str, Any]:
    """The fields of the row of a line."""
    cells = {f: record.cells[c].strip() for f, c in column.items() if c is not None}
    values: dict[str, Any] = {field: cell for field, cell in cells.items() if cell}
    values["labels"] = labels_in(values, ())
    values["text"] = values.pop("normalised", None) or values.get("text", "")
    if column["audio"] is None and "id" in values:
        values["audio"] = audio_of[values["id"]]
        if Path(values["id"]).suffix.lower() in AUDIO_SUFFIXES:
            values["id"] = str(Path(values["id"]).with_suffix(""))
    elif "audio" in values:
        name = values["audio"]
        values.setdefault("id", str(Path(inside) / Path(name).with_suffix("")) if Path(name).name else name)
        values["audio"] = audio_of.located(name)
    if "audio" in values:
        values["audio"] = str(Path(inside) / values["audio"])
    stem = path.stem
    part = part_in_name(values.get("split") or (stem if stem in _PART_TABLES else inside))
    if "split" in values or part:
        values["split"] = part or values["split"]
    return values


def read_metadata_jsonl(
    path: Path, options: ReadOptions, inside: str = "", named: "array[int] | None" = None
) -> list[Row]:
    """Rows of a metadata.jsonl; the fields are named like the columns of a metadata.csv.

    inside: the folder it lies in, relative to the corpus folder. Its name (train, test, validation) is the
    split of the rows that name none. named: gets keys of the audio of the rows. options.labels: fields that
    hold labels, besides `labels` and label_NAME.
    """
    collector = RowCollector(path, sink=options.sink)
    for number, given in collector.objects():
        values = {f: next((given[n] for n in names if n in given), None) for f, names in COLUMNS.items()}
        values = {name: value for name, value in values.items() if value is not None}
        values["labels"] = labels_in(given, options.labels)
        for name in ("id", "speaker"):
            if type(values.get(name)) is int:
                values[name] = str(values[name])
        audio = values.get("audio")
        if not isinstance(audio, str) or not audio:
            others = ", ".join(COLUMNS["audio"][1:])
            collector.reject(f"no field holds the path of the audio as text; name it one of {others}", number)
            continue
        values["audio"] = str(Path(inside) / audio)
        split = values.get("split", part_in_name(inside))
        values["split"] = (isinstance(split, str) and part_in_name(split)) or split  # validation: dev
        _add(collector, values, number, options.language, named)
    return collector.rows()


def _add(
    collector: RowCollector,
    values: dict[str, Any],
    line: int,
    language: str | None,
    named: "array[int] | None",
) -> None:
    """Fill in the text, id and language that a line leaves out, and keep it."""
    values.setdefault("text", "")
    if "audio" in values:
        audio = Path(values["audio"])
        values.setdefault("id", str(audio.with_suffix("") if audio.name else audio))
        if "language" not in values:
            values["language"] = language or folder_language(audio, f"{collector.path}:{line}")
        if named is not None:
            named.append(_audio_key(values["audio"]))
    collector.add(values, line)
