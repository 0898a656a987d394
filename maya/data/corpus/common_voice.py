"""Common Voice as it is downloaded: clips/ beside train.tsv, dev.tsv, test.tsv, validated.tsv and others."""

from pathlib import Path

from maya.data.corpus.common import AUDIO_SUFFIXES, joined
from maya.data.corpus.delimited import DelimitedFile
from maya.data.corpus.manifest import ReadOptions, Result, Row, RowCollector, labels_in, read_lines
from maya.errors import MayaError

_PARTS = ("train", "dev", "test")
_NOT_READ = ("validated", "other", "invalidated", "reported", "unvalidated_sentences")
_COLUMNS = ("path", "sentence", "client_id")


def common_voice_tables(folder: Path) -> list[Path]:
    """The tables to read: train.tsv, dev.tsv and test.tsv, or validated.tsv where none of these exists; in
    the folder, or in one folder a language."""
    tables = []
    for base in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if not (base / "clips").is_dir() or base.name.startswith("."):
            continue
        parts = [base / f"{part}.tsv" for part in _PARTS if (base / f"{part}.tsv").is_file()]
        tables += parts or [path for path in [base / "validated.tsv"] if path.is_file()]
    return tables


def read_common_voice(folder: Path, options: ReadOptions) -> Result:
    """A row for each line: `sentence` is the text, `client_id` the speaker, `locale` the language where none
    is given. The table names the part, train, dev or test; validated.tsv names none.

    train, dev and test hold the clips of validated.tsv that are the first with their sentence, so the rest
    of it is not read beside them. Clips that people rejected (invalidated.tsv) or did not check (other.tsv)
    are not read either; the notes say how many these are. Raises MayaError, naming the line.
    """
    tables = common_voice_tables(folder)
    rows = joined(_rows(folder, path, options) for path in tables)
    for base in dict.fromkeys(path.parent for path in tables):
        options.notes.extend(_passed_over(base, [path for path in tables if path.parent == base]))
    return rows, []


def _rows(folder: Path, path: Path, options: ReadOptions) -> list[Row]:
    file = DelimitedFile(path)
    header = [name.strip().lower() for name in file.first("\t")]
    for name in _COLUMNS:
        if header.count(name) != 1 and (name in header or name != "client_id"):
            problem = "has no column" if name not in header else "has several columns"
            raise MayaError(f"{path}:1: the table {problem} {name!r}; download it again")
    place = {name: header.index(name) for name in (*_COLUMNS, "locale") if name in header}
    collector = RowCollector(path, sink=options.sink)
    inside = path.parent.relative_to(folder)
    part = path.stem if path.stem in _PARTS else None

    def is_row(cells: object) -> bool:
        return True  # with its many columns, no part of a sentence is a line by chance

    for record in file.records("\t", len(header), is_row):
        if record.problem:
            collector.reject(record.problem, record.number)
            continue
        values = {name: record.cells[column].strip() for name, column in place.items()}
        name = values["path"]
        if not name.lower().endswith(AUDIO_SUFFIXES):  # early releases leave it out
            name += ".mp3"
        code = values.get("locale") or options.language or inside.name
        if not code:
            collector.reject("its language is not given; name one with prepare.language", record.number)
            continue
        cells = dict(zip(header, record.cells, strict=False))
        cells |= {name: cells[name.lower()] for name in options.labels if name.lower() in cells}
        row = {
            "id": (inside / Path(name).with_suffix("")).as_posix() if values["path"] else "",
            "audio": (inside / "clips" / name).as_posix(),
            "text": values["sentence"],
            "language": code,
            "speaker": values.get("client_id") or None,
            "split": part,
            "labels": labels_in(cells, options.labels),
        }
        collector.add(row, record.number)
    return collector.rows(may_be_none=True)


def _passed_over(base: Path, tables: list[Path]) -> list[str]:
    """Tables beside those that were read, with the number of their lines."""
    read = {path.stem for path in tables}
    counts = {
        name: sum(1 for line in read_lines(base / f"{name}.tsv") if line.strip()) - 1
        for name in _NOT_READ
        if name not in read and (base / f"{name}.tsv").is_file()
    }
    if not any(count > 0 for count in counts.values()):
        return []
    named = ", ".join(f"{name}.tsv {max(count, 0)}" for name, count in counts.items())
    note = f"{base}: read {', '.join(path.name for path in tables)}; not read (lines): {named}"
    if "validated" in counts:
        note += "; train, dev and test are a part of validated.tsv: move them away to read all of it"
    return [note]
