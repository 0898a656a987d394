"""Pieces of a corpus that can be read one by one: files of a sharded corpus, and lines of a long manifest."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maya.errors import MayaError

_BLOCK = 1 << 24  # bytes


class CorpusPiece(NamedTuple):
    """A file of a corpus, or its bytes from `begin` to `end` (None: all), which start with line `first_line`
    (from 1)."""

    path: Path
    begin: int = 0
    end: int | None = None
    first_line: int = 1

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the piece. Raises MayaError where they cannot be read."""
        remaining = self.end - self.begin if self.end is not None else -1
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin)
                while block := file.read(_BLOCK if remaining < 0 else min(_BLOCK, remaining)):
                    remaining -= len(block) if remaining > 0 else 0
                    yield block
        except OSError as error:
            raise MayaError(f"cannot read {self.path}: {error.strerror}") from None


def line_pieces(path: Path, lines: int) -> list[CorpusPiece]:
    """A file of lines in pieces of so many. A packed file is one piece: it has to be read from its start."""
    whole = CorpusPiece(path)
    if path.suffix == ".gz" or not path.is_file():
        return [whole]
    starts, passed, offset = [0], 0, 0
    for block in whole.blocks():
        count = block.count(b"\n")
        while passed + count >= lines * len(starts):
            place = offset + _after_line(block, lines * len(starts) - passed)
            starts.append(place)
        passed, offset = passed + count, offset + len(block)
    if len(starts) > 1 and starts[-1] == offset:  # no line follows
        starts.pop()
    ends = [*starts[1:], offset]
    if len(starts) == 1:
        return [whole]
    return [
        CorpusPiece(path, begin, end, 1 + number * lines)
        for number, (begin, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _after_line(block: bytes, count: int) -> int:
    """Where the line after the first `count` line ends of a block begins."""
    place = 0
    for _ in range(count):
        place = block.index(b"\n", place) + 1
    return place


def grouped(pieces: Sequence[CorpusPiece], most: int) -> list[tuple[CorpusPiece, ...]]:
    """Pieces that follow each other, in at most `most` groups."""
    size = -(-len(pieces) // most) if pieces else 1
    return [tuple(pieces[i : i + size]) for i in range(0, len(pieces), size)]
