"""One process at a time for a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maya.errors import MayaError

_NAME = ".lock"


@contextmanager
def locked(folder: Path, purpose: Path) -> Iterator[None]:
    """Hold the lock file in `folder`, which is made when missing, for work on `purpose`.

    The system releases it when the process ends, however it ends. A file system without locks is no
    obstacle. Raises MayaError while another process holds it, and where the file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise MayaError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MayaError(
                f"another process is writing to {purpose}; wait until it ends, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
