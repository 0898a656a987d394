"""One process at a time, by a lock file that says who holds it."""

import errno
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO, NamedTuple

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_HELD = (errno.EACCES, errno.EAGAIN)
log = logging.getLogger(__name__)


class FileLock(NamedTuple):
    """file: open while the lock is held, None without one; closing it lets go. holder: the other process that
    holds the lock, such as "process 7 on host since 2026-11-29 10:00:00", or empty."""

    file: IO[str] | None
    holder: str

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if self.file is not None:
            self.file.close()


def try_lock(path: Path) -> FileLock:
    """Lock `path`, whose folder is made when missing.

    The lock is one of the kernel's (POSIX record lock): it ends with the process that holds it, however that
    ends, and the workers it has forked do not keep it. The file stays, and says who held it last. Where there
    are no such locks, a warning says so. Raises OSError if `path` cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        log.warning("%s: no file locks here: do not write to this folder twice at once", path.parent)
        return FileLock(None, "")
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(file)
        file.close()
        if error.errno in _HELD:
            return FileLock(None, holder)
        log.warning(
            "%s: its file system has no locks (%s): do not write to it twice at once",
            path.parent, error.strerror,
        )  # fmt: skip
        return FileLock(None, "")
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, file)
    file.flush()
    return FileLock(file, "")


def _holder(file: IO[str]) -> str:
    """The process that wrote the lock file."""
    try:
        file.seek(0)
        wrote = json.loads(file.read())
        return f"process {wrote['pid']} on {wrote['host']} since {wrote['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
