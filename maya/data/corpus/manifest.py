"""Rows of a corpus, and the `manifest.jsonl` that holds them, checked.

A file that cannot be trusted as a whole (a line that is not JSON, a missing field, an id that occurs twice,
an unknown language) raises MayaError and names the line. Problems of a single utterance are left to
maya.data.measure.probe, and cost only that utterance.
"""

import codecs
import gzip
import json
import math
import os.path
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maya.data.corpus.pieces import CorpusPiece
from maya.errors import MayaError
from maya.text.languages import language_code

PARTS = ("train", "dev", "test")
_REQUIRED = ("id", "language", "text", "audio")
_TEXT_FIELDS = (*_REQUIRED, "speaker", "split", "kind", "source", "licence", "tar")
_LABEL_COLUMN = "label_"  # of a table: label_emotion holds the label "emotion"
_MAX_LINE = 1 << 24  # bytes; a line without an end would be read into memory whole
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte-order marks
_NAMED = 3  # names that a note lists
_AT_ONCE = 10_000  # rows
_MAX_NUMBER = 1 << 62  # of bytes or Hz; what fits into a table's column


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One utterance as a corpus describes it.

    audio: path relative to the corpus folder and inside it, or absolute; with `tar`, the name of the member,
    whose data are the `size` bytes from `offset` (both None: to be looked up in the tar). duration: seconds.
    start: seconds into the audio at which the utterance begins, `duration` long (None: up to the end); None
    where it is all of the audio. sample_rate: Hz, as claimed. subset: the corpus's name of the set, where a
    split has several (dev-clean, dev-other). channel: the channel to read, counted from 0; None averages all.
    labels: values by name, such as {"emotion": "happy"}. where: file and line, for messages.
    """

    id: str
    language: str
    text: str
    audio: str
    where: str
    speaker: str | None = None
    duration: float | None = None
    sample_rate: int | None = None
    split: str | None = None
    kind: str | None = None
    source: str | None = None
    licence: str | None = None
    tar: str | None = None
    offset: int | None = None
    size: int | None = None
    start: float | None = None
    subset: str | None = None
    channel: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A reason to drop or to flag an utterance: `reason` is one word to count by, `detail` a sentence."""

    id: str
    language: str
    reason: str
    detail: str
    where: str


Result = tuple[list[Row], list[Problem]]  # utterances, and those that cannot be used
Sink = Callable[[list[Row], list[Problem]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Options for reading a corpus.

    language: of utterances whose corpus does not name one. made: the folder for audio that lies inside tables
    (see maya.data.corpus.hugging_face). labels: fields or columns of the corpus that hold labels. piece: all
    that is to be read (see maya.data.corpus.pieces); None for everything. first: whether this is the first
    piece, with which the notes about the whole corpus are made. sink: gets what a reader of long files has
    read, some thousand rows at a time; the reader returns the rest, if any. notes: gets sentences for people.
    unread: the number of things of a kind that are not read, and the names of some.
    """

    language: str | None = None
    made: Path | None = None
    labels: Sequence[str] = ()
    piece: CorpusPiece | None = None
    first: bool = True
    sink: "Sink | None" = None
    notes: list[str] = field(default_factory=list)
    unread: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def pass_over(self, what: str, count: int, names: Sequence[str] = ()) -> None:
        """Count what is not read."""
        before, some = self.unread.get(what, (0, []))
        if count:
            self.unread[what] = before + count, [*some, *names][:_NAMED]


def read_manifest(
    path: Path,
    languages: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    piece: CorpusPiece | None = None,
) -> list[Row]:
    """Rows of a manifest.jsonl, in order. Fields: those of `Row` without `start`; others are ignored.

    languages: codes that may occur (any language if None). labels: fields that hold labels, besides those of
    the object `labels`. piece: the lines to read, which may all be empty; None for all. Raises MayaError,
    naming the first line at fault and how many more there are.
    """
    collector = RowCollector(path, languages, piece)
    for number, values in collector.objects():
        values.pop("start", None)  # not a field of this form: a clip may name its place in a longer recording
        collector.add(values | {"labels": labels_in(values, labels)}, number)
    return collector.rows(may_be_none=piece is not None)


def labels_in(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The labels of a line: its object `labels`, its fields label_NAME, and the fields with these names.

    Numbers become text. Empty values are left out. An object `labels` that is none is returned as it is.
    """
    given = values.get("labels") or {}
    if not isinstance(given, dict):
        return given
    fields = {name: values[name] for name in names if name in values} | {
        name.removeprefix(_LABEL_COLUMN): value
        for name, value in values.items()
        if name.startswith(_LABEL_COLUMN)
    }
    return {
        name: str(value) if type(value) in (int, float) else value
        for name, value in (given | fields).items()
        if value not in (None, "")
    }


class RowCollector:
    """Collects the rows of a file and everything that is wrong with them.

    dropped: utterances that cannot be used; a wrong line makes the whole file unusable instead. sink: gets
    the rows (see ReadOptions); whether an id occurs twice is then known of those between two calls only.
    """

    def __init__(
        self,
        path: Path,
        languages: Sequence[str] | None = None,
        piece: CorpusPiece | None = None,
        sink: Sink | None = None,
    ) -> None:
        self.path, self.languages, self.piece, self._sink = path, languages, piece, sink
        self._sunk = False
        self.dropped: list[Problem] = []
        self._rows: list[Row] = []
        self._problems: list[str] = []
        self._line_of: dict[str, int] = {}

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, JSON object) of each line that is not empty; a line without one is rejected."""
        first = self.piece.first_line if self.piece else 1
        for number, line in enumerate(read_lines(self.path, self.piece), start=first):
            if line.strip():
                try:
                    values = parse_object(line)
                except ValueError as error:
                    self.reject(str(error), number)
                else:
                    yield number, values

    def add(self, values: dict[str, Any], line: int, subset: str | None = None) -> None:
        """Check the values of one line and keep them."""
        try:
            row = _row(values, f"{self.path}:{line}", self.languages)
            row = row if subset is None else replace(row, subset=subset)
        except ValueError as error:
            return self.reject(str(error), line)
        if row.id in self._line_of:
            return self.reject(f"the id {row.id!r} occurs in line {self._line_of[row.id]} already", line)
        self._line_of[row.id] = line
        self._rows.append(row)
        if len(self._rows) == _AT_ONCE:
            self._give()

    def _give(self) -> None:
        """Give the rows to the sink, if there is one."""
        if self._sink is not None:
            self._sink(self._rows, self.dropped)
            self._rows, self.dropped, self._line_of, self._sunk = [], [], {}, True

    def add_objects(
        self,
        add: Callable[[dict[str, Any], int], None],
        objects: Iterable[tuple[int, dict[str, Any]]] | None = None,
        may_be_none: bool = False,
    ) -> Result:
        """Call `add` with each object and its number, by default those of `objects()`; a ValueError rejects
        the line. Returns the rows and the utterances that were dropped."""
        for number, values in self.objects() if objects is None else objects:
            try:
                add(values, number)
            except ValueError as error:
                self.reject(str(error), number)
        return self.result(may_be_none)

    def drop(self, id: str, language: str | None, reason: str, detail: str, line: int) -> None:
        """Note that an utterance cannot be used."""
        where = f"{self.path}:{line}"
        self.dropped.append(
            Problem(id=id, language=language or "", reason=reason, detail=detail, where=where)
        )

    def reject(self, problem: str, line: int) -> None:
        """Note that a line is wrong."""
        self._problems.append(f"{self.path}:{line}: {problem}")

    def result(self, may_be_none: bool = False) -> Result:
        """The rows, of which there may be none where some were dropped, and those dropped."""
        return self.rows(may_be_none or bool(self.dropped)), self.dropped

    def rows(self, may_be_none: bool = False) -> list[Row]:
        """All rows; MayaError if a line was wrong, or if there is no row (unless may_be_none)."""
        _raise_first(self._problems)
        if not (self._rows or self._sunk or may_be_none):
            raise MayaError(f"{self.path} describes no utterance")
        self._give()  # before those of other files
        return self._rows


def checked_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows that a reader made itself, checked as the lines of a manifest are: languages as codes, fields of
    the right kinds, ids that differ. MayaError names the first row at fault and how many more there are."""
    by_id: dict[str, Row] = {}
    problems = []
    for row in rows:
        values = {name: getattr(row, name) for name in Row.__dataclass_fields__}
        try:
            checked = replace(_row(values, row.where, None), subset=_subset(row.subset))
            if checked.id in by_id:
                raise ValueError(f"the id {short(row.id)} occurs in {by_id[row.id].where} already")
        except ValueError as error:
            problems.append(f"{row.where}: {error}")
        else:
            by_id[checked.id] = checked
    _raise_first(problems)
    return list(by_id.values())


def _raise_first(problems: Sequence[str]) -> None:
    if problems:
        rest = f" (and {len(problems) - 1} more lines have problems)" if len(problems) > 1 else ""
        raise MayaError(problems[0] + rest)


def _subset(name: Any) -> str | None:
    """The name of an evaluation set, which becomes that of a file; ValueError where it cannot."""
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)):
        raise ValueError(f"the subset must be a name of letters, digits, _ and -, not {short(name)}")
    if name is not None and name.lower() in PARTS:
        raise ValueError(f"the subset {name!r} has the name of a split; leave it out, or give it another")
    return name


def writable(text: str) -> str:
    """A text that can be written to a file. Bytes of a file's name that are not UTF-8 become \\udcff and so
    on."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_lines(path: Path, piece: CorpusPiece | None = None) -> Iterator[str]:
    """Lines of a UTF-8 file, or one packed as .gz, without their ends; MayaError names the line at fault.
    piece: those of the file that are read."""
    begin, end, first = (piece.begin, piece.end, piece.first_line) if piece else (0, None, 1)
    number = first - 1
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for its writer
            raise MayaError(f"{path} is not a file")
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            file.seek(begin)
            for number, raw in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), b""), start=first):
                if end is not None and file.tell() > end:
                    return
                if len(raw) > _MAX_LINE:
                    raise MayaError(f"{path}:{number} is longer than {_MAX_LINE} bytes; is it a text file?")
                if number == 1 and raw.startswith(_UTF_16):
                    raise MayaError(f"{path} is UTF-16 text; convert the file to UTF-8")
                try:
                    # Joined files have a byte-order mark at the head of each.
                    yield raw.removeprefix(codecs.BOM_UTF8).decode().rstrip("\r\n")
                except UnicodeDecodeError:
                    raise MayaError(f"{path}:{number} is not UTF-8 text; convert the file to UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        place = f" after line {number}" if number else ""
        raise MayaError(f"{path} is not a sound gzip file{place} ({error}); copy or make it again") from None
    except OSError as error:
        raise MayaError(f"cannot read {path}: {error.strerror}") from None


def parse_object(line: str) -> dict[str, Any]:
    """The JSON object a line holds; ValueError says why there is none."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        if line.strip() in ("[", "{") or (error.msg == "Extra data" and line[error.pos :].strip() == ","):
            raise ValueError("not JSON lines; write one object a line, without [ ] and commas") from None
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not JSON of a manifest (nested too deep)") from None
    except ValueError:
        raise ValueError("a number has thousands of digits") from None
    if not isinstance(values, dict):
        hint = "; write one object a line" if isinstance(values, list) else ""
        raise ValueError(f"not a JSON object but {type(values).__name__}{hint}")
    return values


def _row(values: dict[str, Any], where: str, languages: Sequence[str] | None) -> Row:
    """A checked Row; ValueError says what is wrong with the values."""
    values = {name: value for name, value in values.items() if value is not None}
    for name in _REQUIRED:
        if name not in values:
            raise ValueError(f"the field {name!r} is missing")
    for name in _TEXT_FIELDS:
        if name in values and not isinstance(values[name], str):
            raise ValueError(f"the field {name!r} must be text, not {short(values[name])}")
        if name in values:
            _check_text(name, values[name])
    for name in ("id", "audio"):
        if not values[name].strip():
            raise ValueError(f"the field {name!r} is empty")
    _check_path("tar" if "tar" in values else "audio", values)
    values["language"] = _language(values["language"], languages)
    if values.get("split", "train") not in PARTS:
        raise ValueError(f"split {short(values['split'])} is none of {', '.join(PARTS)}")
    for name, minimum in (("offset", 0), ("size", 1), ("sample_rate", 1), ("channel", 0)):
        value = values.get(name, minimum)
        if type(value) is not int or not minimum <= value <= _MAX_NUMBER:
            raise ValueError(f"the field {name!r} must be a whole number from {minimum}, not {short(value)}")
    start = values.get("start", 0)
    if type(start) not in (int, float) or not 0 <= start <= _MAX_NUMBER:
        raise ValueError(f"an utterance must begin at zero seconds or later, not at {short(start)}")
    duration = values.get("duration")
    if duration is not None and not (
        type(duration) in (int, float) and 0 < duration <= _MAX_NUMBER and math.isfinite(duration)
    ):
        raise ValueError(f"the field 'duration' must be seconds above zero, not {short(duration)}")
    if ("offset" in values) != ("size" in values):
        raise ValueError("'offset' and 'size' are needed together")
    if "offset" in values and "tar" not in values:
        raise ValueError("'offset' is given without 'tar'")
    if "labels" in values:
        labels = checked_labels(values["labels"])
        speaker = labels.pop("speaker", None)
        values |= {"labels": labels} | ({"speaker": speaker} if speaker and "speaker" not in values else {})
    names = [n for n in Row.__dataclass_fields__ if n in values and n not in ("where", "subset")]
    return Row(**{name: values[name] for name in names}, where=where)


def checked_labels(labels: Any) -> dict[str, str]:
    """Labels sorted by name; ValueError where a name or a value cannot be one."""
    if not isinstance(labels, dict):
        raise ValueError(f"the field 'labels' must be an object of names and texts, not {short(labels)}")
    for name, value in labels.items():
        if not name.isidentifier():
            raise ValueError(f"the label {short(name)} must have a name of letters, digits and _")
        if not isinstance(value, str):
            raise ValueError(f"the label {name!r} must be text, not {short(value)}")
        _check_text(name, value)
    return dict(sorted(labels.items()))


def _language(value: str, languages: Sequence[str] | None) -> str:
    """The code of a language, however it is written; ValueError where it is none of `languages`."""
    try:
        code = language_code(value)
    except MayaError as error:
        raise ValueError(str(error)) from None
    if languages is not None and code not in languages:
        raise ValueError(f"unknown language {short(value)}; expected one of {', '.join(languages)}")
    return code


def _check_text(name: str, value: str) -> None:
    """ValueError for text that cannot be written to a file."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the field {name!r} holds half of a character (a lone surrogate)") from None
    if "\0" in value:
        raise ValueError(f"the field {name!r} holds a zero byte")


def _check_path(name: str, values: dict[str, Any]) -> None:
    """ValueError for a relative path that leaves the corpus folder. A downloaded corpus must not read other
    files; a person can give an absolute path."""
    if os.path.normpath(values[name]).split("/")[0] == "..":
        raise ValueError(
            f"the path {short(values[name])} leaves the corpus folder; give an absolute path if it is meant"
        )


def short(value: Any) -> str:
    """A value, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
