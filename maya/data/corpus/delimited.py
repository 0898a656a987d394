"""Tab-, comma- and otherwise separated files, one utterance a line.

A quotation mark that is not closed is text. A cell that goes on in the next line is refused, with both lines
named: the two would otherwise be told apart by chance, and utterances between two marks be lost.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError

SEPARATORS = "\t|,;"
LOOKED_AT = 50  # lines that tell the form of a file
_MOST_LINES = 100  # lines that a cell is followed over, to name where it ends
_LONGEST_CELL = 131_072  # characters, the limit of Python's csv
_CARRIAGE_RETURN = "a carriage return lies inside the line; end lines with \\n"

Line = tuple[int, str]  # its number, from 1


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a table. number: of the line, from 1; cells: with quotation marks around them removed;
    problem: why the line cannot be used, "" if it can."""

    number: int
    cells: Sequence[str] = ()
    problem: str = ""


class DelimitedFile:
    """The lines of a file that are not empty, read when they are needed. head: the first of them.

    Raises MayaError for a file without lines, or that is not UTF-8 text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = list(islice(self._lines(), LOOKED_AT))
        if not self.head:
            raise MayaError(f"{path} is empty; it needs a header line such as file_name,text")
        if "\r" in self.head[0][1]:
            raise MayaError(f"{path}:{self.head[0][0]}: {_CARRIAGE_RETURN}")

    def _lines(self) -> Iterator[Line]:
        return ((number, line) for number, line in enumerate(read_lines(self.path), start=1) if line.strip())

    def first(self, separator: str) -> list[str]:
        """The cells of the first line."""
        return _cells(self.head[0][1], separator, None)

    def records(
        self, separator: str, width: int, is_row: Callable[[Sequence[str]], bool], skip: int = 1
    ) -> Iterator[Record]:
        """The lines after the first `skip`, each with `width` cells or a problem. is_row: whether cells look
        like an utterance's, which tells a stray quotation mark from a cell over several lines."""
        coming = _Coming(islice(self._lines(), skip, None))
        while (line := coming.take()) is not None:
            number, text = line
            if "\r" in text:
                yield Record(number, problem=_CARRIAGE_RETURN)
            elif count := _continued(text, coming, separator, width, is_row):
                passed = [coming.take() or line for _ in range(count)]
                problem = f"a cell goes on to line {passed[-1][0]}; write each utterance on one line"
                yield Record(number, problem=problem)
            else:
                yield _record(number, text, separator, width)


class _Coming:
    """Lines, of which the next can be looked at before they are taken."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines, self._seen = lines, deque[Line]()

    def take(self) -> Line | None:
        return self._seen.popleft() if self._seen else next(self._lines, None)

    def look(self, most: int) -> Iterator[Line]:
        """The next lines."""
        for place in range(most):
            if place == len(self._seen):
                if (line := next(self._lines, None)) is None:
                    return
                self._seen.append(line)
            yield self._seen[place]


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
    line: str, coming: _Coming, separator: str, width: int, is_row: Callable[[Sequence[str]], bool]
) -> int:
    """The number of lines on which a quoted cell of this line goes on; 0 if it ends in it.

    Lines that are utterances themselves are no part of a cell: the quotation mark is then a stray one.
    """
    if separator == "|" or '"' not in line or not _opens(line, separator):
        return 0
    record = line
    for count, (_, other) in enumerate(coming.look(_MOST_LINES - 1), start=1):
        record += "\n" + other
        cells = _cells(other, separator, width)
        if len(cells) == width and is_row(cells):
            return 0
        if '"' in other and not _opens(record, separator):
            return count
    return 0


def _opens(text: str, separator: str) -> bool:
    """Whether the last cell of a record has a quotation mark that is still to be closed."""
    try:
        list(csv.reader(_lines(text), delimiter=separator, strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False
