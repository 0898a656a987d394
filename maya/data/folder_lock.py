"""One process at a time for a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maya.errors import MayaError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"


@contextmanager
def locked(folder: Path, purpose: Path) -> Iterator[None]:
    """Hold the lock file in `folder`, which is made when missing, for work on `purpose`.

    It is a POSIX record lock: it ends with the process, however that ends, and forked workers do not keep it.
    A system or file system without locks is no obstacle. Raises MayaError while another process holds the
    lock, and where the file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _NAME).open("a")
    except OSError as error:
        raise MayaError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    with file:
        if fcntl is not None:
            _lock(file.fileno(), purpose)
        yield


def _lock(descriptor: int, purpose: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise MayaError(
            f"another process is writing to {purpose}; wait until it ends, or choose another folder"
        ) from None
    except OSError:  # a file system without locks
        return
