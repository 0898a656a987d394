"""The lines of a file by their first word, in memory, or on disk where the file is long."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from maya.data.corpus.manifest import short
from maya.errors import MayaError

_IN_MEMORY = 1 << 26  # bytes of a file that becomes a dict, of about ten times the size
_PACKED = 8  # times that a file packed as .gz is shorter
_NAMED = 3  # names that a note lists

Value = tuple[str, int]  # what follows the name, number of the line
Line = tuple[int, str, str]  # number, name, what follows


def line_table(path: Path, lines: Iterable[Line], twice: str = "") -> Mapping[str, Value]:
    """(what follows the name, number of the line) by name, in the order of the lines of `path`.

    Raises MayaError where two lines have one name. twice: the sentence then, with {name}; if it is given,
    lines may occur again.
    """
    size = path.stat().st_size * (_PACKED if path.suffix == ".gz" else 1) if path.is_file() else 0
    if size > _IN_MEMORY:
        return _TableOnDisk(path, lines, twice)
    table: dict[str, Value] = {}
    for number, name, rest in lines:
        if (first := table.setdefault(name, (rest, number)))[1] != number:
            _check(path, (number, name, rest), first, twice)
    return table


def _check(path: Path, line: Line, first: Value, twice: str) -> None:
    number, name, rest = line
    if not (twice and rest == first[0]):
        problem = (twice or "{name} occurs in line {first} already; remove one").format(
            name=short(name), first=first[1]
        )
        raise MayaError(f"{path}:{number}: {problem}")


class _TableOnDisk(Mapping[str, Value]):
    """A table in SQLite, in the folder for temporary files (TMPDIR), gone with the object. Names that come in
    order, as Kaldi has them, are found near each other."""

    def __init__(self, path: Path, lines: Iterable[Line], twice: str) -> None:
        import sqlite3  # noqa: PLC0415  some builds of Python lack it

        self._folder = TemporaryDirectory(prefix="maya-lines-")
        self._data = sqlite3.connect(Path(self._folder.name) / "lines", isolation_level=None)
        try:
            for command in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", _CREATE, "BEGIN"):
                self._data.execute(command)
            for number, name, rest in lines:
                if not self._data.execute(_INSERT, (number, name.encode(), rest.encode())).rowcount:
                    _check(path, (number, name, rest), self[name], twice)
            self._data.execute("COMMIT")
        except sqlite3.Error as error:
            folder = self._folder.name
            raise MayaError(f"cannot keep the lines of {path} in {folder}: {error}; set TMPDIR") from None

    def __getitem__(self, name: str) -> Value:
        if (row := self._data.execute(_SELECT, (name.encode(),)).fetchone()) is None:
            raise KeyError(name)
        return row[0].decode(), row[1]

    def __iter__(self) -> Iterator[str]:
        for (name,) in self._data.execute("SELECT name FROM lines ORDER BY number"):
            yield name.decode()

    def __len__(self) -> int:
        count: int = self._data.execute("SELECT count(*) FROM lines").fetchone()[0]
        return count


_CREATE = "CREATE TABLE lines (number INTEGER PRIMARY KEY, name BLOB UNIQUE, rest BLOB)"
_INSERT = "INSERT OR IGNORE INTO lines VALUES (?, ?, ?)"
_SELECT = "SELECT rest, number FROM lines WHERE name = ?"


class UsedLines:
    """Which lines of a table were used, a byte for each."""

    def __init__(self) -> None:
        self._used = bytearray()

    def add(self, number: int) -> None:
        if number >= len(self._used):
            self._used.extend(bytes(number + 1 - len(self._used)))
        self._used[number] = 1

    def others(self, table: Mapping[str, Value]) -> tuple[int, list[str]]:
        """(number of the lines that were not used, the names of some)."""
        others = (name for name in table if not any(self._used[(n := table[name][1]) : n + 1]))
        named = list(islice(others, _NAMED))
        return len(named) + sum(1 for _ in others), named
