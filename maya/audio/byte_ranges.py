"""Bytes of a file by position, on a disk or in object storage (`s3://bucket/key`).

lhotse's manifests hold a range as an address:

    bytes:///data/shard-000.tar?offset=1536&size=43210&file_size=1073741824&mtime=1763700000
    bytes+s3://bucket/shard-000.tar?offset=1536&size=43210&file_size=1073741824&mtime=1763700000

`file_size` (bytes) and `mtime` (seconds since 1970) identify the file when the address was made. A file that
was replaced since is refused; its bytes could be another speaker's voice or noise.
"""

import io
import os
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from maya.audio.object_store import s3_store
from maya.audio.stamps import Stamp, Store, changed, same_stamp
from maya.errors import MayaError

SCHEMES = ("bytes://", "bytes+s3://")
_S3 = "s3://"
_MAX_OPEN_FILES = 256
_LARGEST = 1 << 62  # bytes; what a position in a file can be


class ByteRange(NamedTuple):
    """`size` bytes of `path` from `offset`; stamp: the file's when the range was looked up, if known."""

    path: str
    offset: int
    size: int
    stamp: Stamp | None = None

    @property
    def address(self) -> str:
        """The range in the form that manifests hold."""
        remote = self.path.startswith(_S3)
        place = (
            f"bytes+s3://{quote(self.path.removeprefix(_S3))}" if remote else f"bytes://{quote(self.path)}"
        )
        stamp_fields = (
            f"&file_size={self.stamp.size}&mtime={self.stamp.mtime}" if self.stamp is not None else ""
        )
        return f"{place}?offset={self.offset}&size={self.size}{stamp_fields}"


def is_address(text: str) -> bool:
    return text.startswith(SCHEMES)


def parse_address(address: str) -> ByteRange:
    """The range of an address; MayaError if it is not an address."""
    place, _, query = address.partition("?")
    fields = dict(part.partition("=")[::2] for part in query.split("&"))
    try:
        offset, size = _whole(fields["offset"]), _whole(fields["size"])
        stamped = "file_size" in fields or "mtime" in fields
        stamp = Stamp(_whole(fields["file_size"]), _whole(fields["mtime"])) if stamped else None
        scheme = next(s for s in SCHEMES if place.startswith(s))
        path = unquote(place.removeprefix(scheme), errors="strict")
        if not path or "\0" in path:
            raise ValueError(path)
    except (KeyError, ValueError, StopIteration):
        raise MayaError(
            f"{address[:200]!r} is not the address of a byte range, such as "
            "bytes:///data/a.tar?offset=512&size=1000; prepare the data again"
        ) from None
    return ByteRange(_S3 + path if scheme == "bytes+s3://" else path, offset, size, stamp)


def store_of(path: str) -> Store:
    """The store that holds a file, by its name."""
    if path.startswith(_S3):
        return s3_store()
    return _LOCAL


def file_stamp(path: Path | str) -> Stamp:
    """The stamp of a file as it is now; MayaError when there is none."""
    return store_of(str(path)).stamp(str(path))


def read_range(path: Path | str, offset: int, size: int, stamp: Stamp | None = None) -> bytes:
    """`size` bytes of `path` from `offset`.

    Raises MayaError when the file is missing, shorter than that, or (with a stamp) was replaced.
    """
    data = store_of(str(path)).read(str(path), offset, size, stamp)
    if len(data) != size:
        raise MayaError(
            f"{path} ends before byte {offset + size}, which the manifest gives as the end of a member; "
            "the tar is truncated, or the manifest was made for another one"
        )
    return data


class RangeFile(io.RawIOBase):
    """A range as a file that reads only the requested bytes; wrap it in io.BufferedReader.

    An error while reading is kept in `failure` too: decoders written in C swallow exceptions of callbacks.
    head: the first bytes of the range, where they have been read already. Headers are read more than once.
    """

    def __init__(self, where: ByteRange, head: bytes = b"") -> None:
        self._range, self._position, self._head = where, 0, head
        self._store = store_of(where.path)
        self.failure: MayaError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._range.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._range.size - self._position))
        where = self._range
        if self._position < len(self._head):
            data = self._head[self._position : self._position + count]
            buffer[: len(data)] = data
            self._position += len(data)
            return len(data)
        try:
            data = read_range(where.path, where.offset + self._position, count, where.stamp)
        except MayaError as error:
            self.failure = error
            raise OSError(str(error)) from None
        buffer[:count] = data
        self._position += count
        return count


class _Descriptor:
    """An open file, closed when the last reader has let go of it."""

    def __init__(self, path: str) -> None:
        # Non-blocking, because opening a named pipe would wait for its writer; files do not care.
        self.number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self.number).st_mode):
            raise MayaError(f"{path} is not a file")  # __del__ closes it

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _LocalFiles:
    """Keeps files open between reads; positional reads share a descriptor between threads and forks."""

    block = 1 << 16

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def stamp(self, path: str) -> Stamp:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None
        return Stamp(status.st_size, int(status.st_mtime))

    def read(self, path: str, offset: int, size: int, stamp: Stamp | None = None) -> bytes:
        try:
            return self._read(path, offset, size, stamp)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            raise _unreadable(path, error) from None

    def _read(self, path: str, offset: int, size: int, stamp: Stamp | None) -> bytes:
        file, status = self._current(path, stamp)
        # Never ask for more than is there: the buffer is allocated before the first byte arrives.
        size = min(size, status.st_size - offset)
        if size <= 0 or offset < 0:
            return b""
        data = os.pread(file.number, size, offset)
        while len(data) < size:  # one call gives at most 2 GB, and some file systems less
            piece = os.pread(file.number, size - len(data), offset + len(data))
            if not piece:
                break
            data += piece
        return data

    def _current(self, path: str, stamp: Stamp | None) -> tuple[_Descriptor, os.stat_result]:
        """The open file and its status: the file of the stamp, or the file that has this path now."""
        with self._lock:
            file = self._open.get(path)
            if file is not None:
                self._open.move_to_end(path)
        if file is not None:
            status = os.fstat(file.number)
            if _matches(status, stamp) if stamp is not None else _same_file(status, os.stat(path)):
                return file, status
        file = _Descriptor(path)
        status = os.fstat(file.number)
        if stamp is not None and not _matches(status, stamp):
            raise changed(path, stamp, Stamp(status.st_size, int(status.st_mtime)))
        with self._lock:
            self._open[path] = file
            while len(self._open) > _MAX_OPEN_FILES:
                self._open.popitem(last=False)
        return file, status


def _matches(status: os.stat_result, stamp: Stamp) -> bool:
    return same_stamp(stamp, Stamp(status.st_size, int(status.st_mtime)))


def _same_file(a: os.stat_result, b: os.stat_result) -> bool:
    return (a.st_ino, a.st_dev) == (b.st_ino, b.st_dev)


def _unreadable(path: str, error: Exception) -> MayaError:
    shown = path if path.isprintable() else repr(path)
    return MayaError(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}")


def _whole(text: str) -> int:
    """A number of bytes or seconds; ValueError unless it is written in plain digits and could be one."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST):
        raise ValueError(text)
    return int(text)


_LOCAL = _LocalFiles()
