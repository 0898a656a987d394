"""Tab-, comma- and otherwise separated files, one utterance a line.

A quotation mark that is not closed is text. A cell that goes on in the next line is refused, with both lines
named: the two would otherwise be told apart by chance, and utterances between two marks be lost.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError

SEPARATORS = "\t|,;"
_MOST_LINES = 100  # lines that a cell is followed over, to name where it ends
_LONGEST_CELL = 131_072  # characters, the limit of Python's csv


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a table. number: of the line, from 1; cells: with quotation marks around them removed;
    problem: why the line cannot be used, "" if it can."""

    number: int
    cells: Sequence[str] = ()
    problem: str = ""


class DelimitedFile:
    """The lines of a file that are not empty, and the character that separates their cells.

    Raises MayaError for a file without lines, or that is not UTF-8 text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = list(enumerate(read_lines(path), start=1))
        self.lines = [(number, line) for number, line in self.lines if line.strip()]
        if not self.lines:
            raise MayaError(f"{path} is empty; it needs a header line such as file_name,text")

    def first(self, separator: str) -> list[str]:
        """The cells of the first line."""
        return _cells(self.lines[0][1], separator, None)

    def records(
        self, separator: str, width: int, is_row: Callable[[Sequence[str]], bool], skip: int = 1
    ) -> Iterator[Record]:
        """The lines after the first `skip`, each with `width` cells or a problem. is_row: whether cells look
        like an utterance's, which tells a stray quotation mark from a cell over several lines."""
        lines = self.lines[skip:]
        place = 0
        while place < len(lines):
            number, line = lines[place]
            if "\r" in line:
                yield Record(number, problem="a carriage return lies inside the line; end lines with \\n")
            elif (end := _continued(lines, place, separator, width, is_row)) > place:
                last = lines[end][0]
                problem = f"a cell goes on to line {last}; write each utterance on one line"
                yield Record(number, problem=problem)
                place = end
            else:
                yield _record(number, line, separator, width)
            place += 1


def _record(number: int, line: str, separator: str, width: int) -> Record:
    cells = _cells(line, separator, width)
    if longest := next((len(cell) for cell in cells if len(cell) > _LONGEST_CELL), 0):
        return Record(number, problem=f"not CSV (field larger than {_LONGEST_CELL} characters: {longest})")
    if len(cells) != width:
        return Record(number, problem=f"{len(cells)} cells where the header has {width}")
    return Record(number, cells)


def _cells(line: str, separator: str, width: int | None) -> list[str]:
    """The cells of one line: by the rules of CSV, or split at every separator where that gives `width`."""
    plain = line.split(separator)
    if separator == "|" or '"' not in line:  # as in LJSpeech, where quotation marks are text
        return plain
    strict = _parsed(line, separator, strict=True)
    if separator == "\t" and (strict is None or len(plain) == width):
        return [_without_marks(cell) for cell in plain]
    if strict is not None and (width is None or len(strict) == width):
        return strict
    if width is None or len(plain) == width:
        return [_without_marks(cell) for cell in plain]
    lenient = _parsed(line, separator, strict=False)
    return lenient if lenient is not None and len(lenient) == width else strict or plain


def _parsed(text: str, separator: str, strict: bool) -> list[str] | None:
    """The cells of a record by the rules of CSV, which may have several lines; None where it breaks them."""
    try:
        rows = list(csv.reader(_lines(text), delimiter=separator, strict=strict))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _lines(text: str) -> list[str]:
    """str.splitlines would also end lines at U+2028 and form feeds, which are characters of a cell."""
    return [line + "\n" for line in text.split("\n")]


def _without_marks(cell: str) -> str:
    """A cell without the quotation marks around it, if these are a pair by the rules of CSV."""
    cell = cell.strip()
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _continued(
    lines: Sequence[tuple[int, str]],
    place: int,
    separator: str,
    width: int,
    is_row: Callable[[Sequence[str]], bool],
) -> int:
    """The place of the line in which a quoted cell of this line ends; `place` itself if it ends in it.

    Lines that are utterances themselves are no part of a cell: the quotation mark is then a stray one.
    """
    line = lines[place][1]
    if separator == "|" or not _opens(line, separator):
        return place
    record = line
    for end in range(place + 1, min(place + _MOST_LINES, len(lines))):
        other = lines[end][1]
        record += "\n" + other
        cells = _cells(other, separator, width)
        if len(cells) == width and is_row(cells):
            return place
        if '"' in other and not _opens(record, separator):
            return end
    return place


def _opens(text: str, separator: str) -> bool:
    """Whether the last cell of a record has a quotation mark that is still to be closed."""
    try:
        list(csv.reader(_lines(text), delimiter=separator, strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False
