"""One training a run folder: a second one would write the same checkpoints and logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maya.errors import MayaError
from maya.files import FileLock, try_lock
from maya.train.distributed import gather_objects, rank

FILE = "train.lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run folder (see `maya.files.try_lock`); all ranks of a launch share it.

    Raises MayaError, on every rank, while another process holds it or if the folder cannot be written to.
    """
    lock, refusal = FileLock(None, ""), ""
    if rank() == 0:
        try:
            lock = try_lock(run_dir / FILE)
        except OSError as error:
            refusal = f"{run_dir / FILE} cannot be written ({error.strerror}); choose another --run-dir"
        if lock.holder:
            refusal = (
                f"{run_dir} is being trained by {lock.holder}: wait until it ends, stop it, or give this run "
                "another folder (--run-dir, --name of run.sh)"
            )
    refusal = gather_objects(refusal)[0]
    if refusal:
        raise MayaError(refusal)
    try:
        yield
    finally:
        lock.release()
