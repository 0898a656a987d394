"""A file that is written past the page cache: the training beside it needs the processor and the memory that
a copy of every byte in the cache would take."""

import errno
import os
from mmap import mmap
from pathlib import Path
from types import TracebackType

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BLOCK = 1 << 22  # bytes written at a time: a multiple of the blocks of every disk
_DIRECT: int = getattr(os, "O_DIRECT", 0) if fcntl else 0


class UnbufferedFile:
    """A new file, for writing from begin to end. File systems without direct writes get ordinary ones.
    Methods raise OSError, as those of `open` do."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        self._direct = bool(_DIRECT)
        try:
            self._number = os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if not self._direct or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._direct, self._number = False, os.open(path, flags, 0o666)
        self._memory = memoryview(mmap(-1, _BLOCK))  # it begins at a page: direct writes must
        self._block = np.frombuffer(self._memory, np.uint8)
        self._held = 0

    def fileno(self) -> int:
        return self._number

    def write(self, data: bytes | memoryview) -> int:
        view, done = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8), 0
        while done < len(view):
            part = view[done : done + _BLOCK - self._held]
            self._block[self._held : self._held + len(part)] = part  # other threads run meanwhile
            self._held += len(part)
            done += len(part)
            if self._held == _BLOCK:
                self._send()
        return len(view)

    def flush(self) -> None:
        """Hand what is held to the system. What is written afterwards goes through the page cache."""
        self._ordinary()
        self._send()

    def _send(self) -> None:
        begin = 0
        while begin < self._held:
            try:
                begin += os.write(self._number, self._memory[begin : self._held])
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._ordinary()
        self._held = 0

    def _ordinary(self) -> None:
        """Go on with ordinary writes, which may begin and end anywhere."""
        if self._direct:
            flags = fcntl.fcntl(self._number, fcntl.F_GETFL)
            fcntl.fcntl(self._number, fcntl.F_SETFL, flags & ~_DIRECT)
            self._direct = False

    def __enter__(self) -> "UnbufferedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            os.close(self._number)
