"""Reading a corpus folder: `manifest.jsonl`, `metadata.csv`, or pairs of audio and .txt files."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maya.data.manifest import Dropped, Row, RowCollector, read_lines, read_manifest
from maya.errors import MayaError
from maya.text.languages import LANGUAGES

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_COLUMNS = {
    "audio": ("audio", "file_name", "filename", "file", "path", "wav"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id",),
    "split": ("split",),
}


def read_corpus(folder: Path, language: str | None = None) -> tuple[list[Row], list[Dropped]]:
    """The utterances of a folder, and those of its files that are none: audio or text without the other.

    `manifest.jsonl` is taken before `metadata.csv`, that before pairs a.wav + a.txt at any depth. `language`
    is used where the folder does not tell: in a metadata.csv without such a column, and for pairs.
    Without it a folder named by a language code (hi/a.wav) tells. Raises MayaError when the folder has
    nothing of the three.
    """
    if not folder.is_dir():
        raise MayaError(f"there is no corpus folder {folder}")
    if (folder / "manifest.jsonl").is_file():
        return read_manifest(folder / "manifest.jsonl"), []
    if (folder / "metadata.csv").is_file():
        return read_metadata(folder / "metadata.csv", language), []
    rows, dropped = read_pairs(folder, language)
    if not rows:
        raise MayaError(
            f"{folder} has no manifest.jsonl, no metadata.csv and no audio file with a .txt file of the same "
            "name beside it; one of these is needed to know what is said"
        )
    return rows, dropped


def read_metadata(path: Path, language: str | None = None) -> list[Row]:
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
    column = {f: next((header.index(n) for n in names if n in header), None) for f, names in _COLUMNS.items()}
    for needed in ("audio", "text"):
        if column[needed] is None:
            options = ", ".join(_COLUMNS[needed])
            raise MayaError(f"{path}:1: no column holds the {needed}; name it one of {options}")
    found = RowCollector(path, tuple(LANGUAGES))
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            found.reject(f"{len(cells)} cells where the header has {len(header)}", reader.line_num)
            continue
        values = {f: cells[c].strip() for f, c in column.items() if c is not None and cells[c].strip()}
        values.setdefault("text", "")
        if "audio" in values:
            audio = Path(values["audio"])
            values.setdefault("id", str(audio.with_suffix("") if audio.name else audio))
            if "language" not in values:
                values["language"] = language or _folder_language(audio, f"{path}:{reader.line_num}")
        found.add(values, reader.line_num)
    return found.rows()


def _cells(path: Path, reader: Any) -> Iterator[list[str]]:
    """The rows of a csv reader; MayaError where a quotation mark without its other half eats the file."""
    try:
        yield from reader
    except csv.Error as error:
        raise MayaError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def read_pairs(folder: Path, language: str | None = None) -> tuple[list[Row], list[Dropped]]:
    """A row for each audio file with a .txt of the same name beside it; its id is the path without suffix.

    Audio without a .txt, and a .txt without audio in a folder that has audio, are listed as dropped.
    """
    audio: dict[Path, Path] = {}
    texts: set[Path] = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = path.relative_to(folder).with_suffix("")
        if path.suffix.lower() in AUDIO_SUFFIXES:
            if name in audio:
                raise MayaError(f"{path} and {audio[name]} would be the same utterance; remove one of them")
            audio[name] = path
        elif path.suffix == ".txt":
            texts.add(name)

    def drop(name: Path, reason: str, detail: str) -> Dropped:
        where = str(folder / name)
        return Dropped(id=name.as_posix(), language=language or "", reason=reason, detail=detail, where=where)

    rows, dropped = [], []
    for name, path in sorted(audio.items()):
        if name not in texts:
            dropped.append(drop(name, "no_transcript", f"{path} has no {name.name}.txt beside it"))
            continue
        row = Row(
            id=name.as_posix(),
            language=language or _folder_language(name, str(path)),
            text=" ".join(read_lines(folder / f"{name}.txt")),
            audio=path.relative_to(folder).as_posix(),
            where=str(path),
        )
        rows.append(row)
    folders = {name.parent for name in audio}  # elsewhere a .txt is as likely a README as a transcript
    for name in sorted(texts - audio.keys()):
        if name.parent in folders:
            dropped.append(drop(name, "missing_audio", f"{folder / name}.txt has no audio file beside it"))
    return rows, dropped


def _folder_language(path: Path, where: str) -> str:
    """The language code among the folders of a relative path."""
    for part in path.parts[:-1]:
        if part in LANGUAGES:
            return part
    raise MayaError(f"{where}: its language is not given; name one, or use a folder such as hi/ for Hindi")
