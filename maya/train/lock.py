"""One training a run folder: a second one would write the same checkpoints and logs."""

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from maya.errors import MayaError
from maya.train.distributed import gather_objects, rank

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

FILE = "train.lock"
_HELD = (errno.EACCES, errno.EAGAIN)
log = logging.getLogger(__name__)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run folder; all ranks of a launch share it.

    The lock is one of the kernel's (POSIX record lock on `run_dir`/train.lock): it ends with the process that
    holds it, however that ends, and the workers it has forked do not keep it. The file stays, and says who
    trained last. Raises MayaError, on every rank, while another process holds it. Where the system or the
    file system has no such locks, a warning says so and training goes on.
    """
    file: IO[str] | None = None
    refusal = ""
    if rank() == 0:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            file, refusal = _try_lock(run_dir / FILE)
        except OSError as error:  # of a folder that cannot be written to
            refusal = f"{run_dir / FILE} cannot be written ({error.strerror}); choose another --run-dir"
    refusal = gather_objects(refusal)[0]
    if refusal:
        raise MayaError(refusal)
    try:
        yield
    finally:
        if file is not None:
            file.close()  # which lets go of the lock


def _try_lock(path: Path) -> tuple[IO[str] | None, str]:
    """(the locked file, "") or (None, why training may not begin)."""
    if fcntl is None:
        log.warning("%s: this system has no file locks: do not train twice in one run folder", path.parent)
        return None, ""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(file)
        file.close()
        if error.errno in _HELD:
            return None, (
                f"{path.parent} is being trained by {holder}: wait until it ends, stop it, or give this run "
                "a --name of its own"
            )
        log.warning(
            "%s: its file system has no locks (%s): do not train twice in one run folder",
            path.parent, error.strerror,
        )  # fmt: skip
        return None, ""
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, file)
    file.flush()
    return file, ""


def _holder(file: IO[str]) -> str:
    """The process that wrote the lock file."""
    try:
        file.seek(0)
        wrote = json.loads(file.read())
        return f"process {wrote['pid']} on {wrote['host']} since {wrote['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
