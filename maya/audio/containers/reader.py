"""Random access to the bytes of a recording, and the parts of it that a decoder is given."""

import io
from typing import BinaryIO, NamedTuple

_BLOCK = 1 << 16  # bytes that a view of a large file reads at once

# Bytes to put in, or (begin, end) of the recording.
Piece = bytes | tuple[int, int]


class DamagedAudio(ValueError):
    """A recording that cannot be read whole. The message is what follows its name: "is truncated: ..."."""


class Reader:
    """The bytes of a recording by position. `data` holds all of them where they are in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.data = file.getvalue() if isinstance(file, io.BytesIO) else None
        self.size = file.seek(0, io.SEEK_END)

    def at(self, position: int, count: int) -> bytes:
        """At most `count` bytes from `position`; fewer at the end."""
        if self.data is not None:
            return self.data[position : position + count]
        self.file.seek(position)
        return self.file.read(count)


class Segment(NamedTuple):
    """Bytes that are one recording for the decoder. least_samples: fewer from the decoder are too few."""

    pieces: tuple[Piece, ...]
    least_samples: int = 0

    def open(self, reader: Reader) -> BinaryIO:
        """The segment as a file of its own."""
        if self.pieces == ((0, reader.size),):
            reader.file.seek(0)
            return reader.file
        if reader.data is not None:
            data = reader.data
            return io.BytesIO(b"".join(p if isinstance(p, bytes) else data[p[0] : p[1]] for p in self.pieces))
        return io.BufferedReader(_View(reader, self.pieces), _BLOCK)


def patched(begin: int, end: int, changes: dict[int, bytes], inserted: dict[int, bytes]) -> tuple[Piece, ...]:
    """The bytes from `begin` to `end` with some of them replaced, and others put in before a position."""
    pieces: list[Piece] = []
    at = begin
    for position in sorted({*changes, *inserted}):
        pieces += [(at, position)] if position > at else []
        pieces += [inserted[position]] if position in inserted else []
        at = position
        if position in changes:
            pieces.append(changes[position])
            at += len(changes[position])
    return (*pieces, (at, end))


class _View(io.RawIOBase):
    """Pieces of a file that is not in memory, one after another."""

    def __init__(self, reader: Reader, pieces: tuple[Piece, ...]) -> None:
        self._reader, self._position = reader, 0
        self._pieces: list[tuple[int, int, Piece]] = []
        total = 0
        for piece in pieces:
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            self._pieces.append((total, total + length, piece))
            total += length
        self._size = total

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for begin, end, piece in self._pieces:
            if begin <= self._position < end:
                count = min(len(buffer), end - self._position)
                within = self._position - begin
                if isinstance(piece, bytes):
                    data = piece[within : within + count]
                else:
                    data = self._reader.at(piece[0] + within, count)
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0
