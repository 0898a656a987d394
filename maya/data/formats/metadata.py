"""`metadata.csv` and `metadata.jsonl`: a table beside the audio, as Hugging Face's audiofolder has it."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maya.data.formats.common import folder_language, part_in_name
from maya.data.manifest import Row, RowCollector, parse_object, read_lines
from maya.errors import MayaError
from maya.text.languages import LANGUAGES

# Names that a column of each field may have, the likeliest first.
COLUMNS = {
    "audio": ("audio", "file_name", "filename", "file", "path", "wav"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id",),
    "split": ("split",),
}


def read_metadata_csv(path: Path, language: str | None = None) -> list[Row]:
    """Rows of a metadata.csv with a header line, separated by whichever of , | ; and tab the header has most.

    Columns: file_name (or audio, path), text (or transcription, sentence), and if there are any id, language,
    speaker, split. The id is the file name without its ending unless there is a column for it.
    """
    lines = list(read_lines(path))
    if not lines:
        raise MayaError(f"{path} is empty; it needs a header line such as file_name,text")
    separator = max(",|;\t", key=lines[0].count)
    reader = csv.reader(lines, delimiter=separator)
    if separator == "|":  # as in LJSpeech, where quotation marks are text
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    rows = _cells(path, reader)
    header = [name.strip().lower() for name in next(rows, [])]
    column = {f: next((header.index(n) for n in names if n in header), None) for f, names in COLUMNS.items()}
    for needed in ("audio", "text"):
        if column[needed] is None:
            options = ", ".join(COLUMNS[needed])
            raise MayaError(f"{path}:1: no column holds the {needed}; name it one of {options}")
    found = RowCollector(path, tuple(LANGUAGES))
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            found.reject(f"{len(cells)} cells where the header has {len(header)}", reader.line_num)
            continue
        values = {f: cells[c].strip() for f, c in column.items() if c is not None and cells[c].strip()}
        _add(found, values, reader.line_num, language)
    return found.rows()


def read_metadata_jsonl(path: Path, language: str | None = None, inside: str = "") -> list[Row]:
    """Rows of a metadata.jsonl; the fields are named like the columns of a metadata.csv.

    inside: the folder it lies in, relative to the corpus folder. Its name (train, test, validation) is the
    split of the rows that name none.
    """
    found = RowCollector(path, tuple(LANGUAGES))
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            given = parse_object(line)
        except ValueError as error:
            found.reject(str(error), number)
            continue
        values = {f: next((given[n] for n in names if n in given), None) for f, names in COLUMNS.items()}
        values = {name: value for name, value in values.items() if value is not None}
        for name in ("id", "speaker"):
            if type(values.get(name)) is int:
                values[name] = str(values[name])
        audio = values.get("audio")
        if not isinstance(audio, str) or not audio:
            options = ", ".join(COLUMNS["audio"][1:])
            found.reject(f"no field holds the path of the audio as text; name it one of {options}", number)
            continue
        values["audio"] = str(Path(inside) / audio)
        split = values.get("split", part_in_name(inside))
        values["split"] = (isinstance(split, str) and part_in_name(split)) or split  # validation: dev
        _add(found, values, number, language)
    return found.rows()


def _add(found: RowCollector, values: dict[str, Any], line: int, language: str | None) -> None:
    """Fill in the text, id and language that a line leaves out, and keep it."""
    values.setdefault("text", "")
    if "audio" in values:
        audio = Path(values["audio"])
        values.setdefault("id", str(audio.with_suffix("") if audio.name else audio))
        if "language" not in values:
            values["language"] = language or folder_language(audio, f"{found.path}:{line}")
    found.add(values, line)


def _cells(path: Path, reader: Any) -> Iterator[list[str]]:
    """The rows of a csv reader; MayaError where a quotation mark without its other half eats the file."""
    try:
        yield from reader
    except csv.Error as error:
        raise MayaError(f"{path}:{reader.line_num}: not CSV ({error})") from None
