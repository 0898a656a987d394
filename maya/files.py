"""Files: atomic writes, digests and locks. Everything above the kernels may use them."""

import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from maya.errors import MayaError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. It becomes `path` if all goes well, and is removed if not."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make names in a folder last through a loss of power, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """As `replacing`, in a folder that is made when missing.

    Raises MayaError where the file cannot be written. A full disk stays an OSError (see `is_disk_full`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            yield partial
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> Exception:
    """What to raise for a file that cannot be written: a MayaError. For a full disk it is the OSError, which
    then names the file: a write does not know it."""
    if is_disk_full(error):
        error.filename = error.filename or str(path)
        return error
    return MayaError(f"cannot write {path}: {error.strerror or error}")


def shown(name: str | Path) -> str:
    """A file's name as text: bytes that are no UTF-8, which Python keeps as lone surrogates, are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader never meets half a file. See `writing`."""
    with writing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where the file is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def packaged_file(package: str, names: Sequence[str]) -> Path | None:
    """The first of the named files that an installed package holds; None without one. Nothing is imported."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = {file.name: Path(str(file.locate())) for file in files if file.name in names}
    return next((paths[name] for name in names if name in paths and paths[name].is_file()), None)


def sha256(data: bytes | str) -> str:
    """The SHA-256 of bytes or of text, in 64 hexadecimal digits."""
    return hashlib.sha256(
        data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    ).hexdigest()


def json_sha256(value: Any) -> str:
    """The SHA-256 of a JSON-able value. The order of keys does not matter."""
    return sha256(json.dumps(value, ensure_ascii=False, sort_keys=True))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileLock(NamedTuple):
    """file: open while the lock is held, None otherwise. holder: the other process that holds the lock, such
    as "process 7 on host since 2026-11-29 10:00:00"; empty where there is none."""

    file: IO[str] | None
    holder: str

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if self.file is not None:
            self.file.close()


def try_lock(path: Path) -> FileLock:
    """Lock `path`, whose folder is made when missing.

    The lock is one of the kernel's (POSIX record lock). It ends with the process that holds it, and forked
    workers do not keep it. The file stays, and names its last holder. A warning is logged where the system
    has no such locks. Raises OSError if `path` cannot be written.
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
