"""Bringing a run back from object storage: verified by SHA-256, continued where a download broke off."""

import functools
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from maya.errors import MayaError
from maya.files import is_disk_full, read_json, write_json
from maya.storage import layout, run_files
from maya.storage.layout import Manifest, StoredFile
from maya.storage.s3 import Place, head, is_expected, is_missing, is_permanent, keys, reason
from maya.storage.watcher import IDENTITY, backoff

log = logging.getLogger(__name__)
_PIECE = 1 << 18  # bytes read at once; a connection that breaks loses so many
_TRIES = 8  # in a row without a new byte
T = TypeVar("T")


def restore(client: Any, place: Place, run: Path, *, name: str = "", tries: int = _TRIES) -> Path | None:
    """Bring a run into a folder: its logs and options, best.pt and its like, and the newest training
    checkpoint, or the one of `name`. Returns the checkpoint's path; None where the storage has none.

    What the folder already has stays. A checkpoint whose bytes are not those of its manifest is named in a
    warning and the one before it is taken. Raises MayaError where the storage does not answer, has no such
    run or holds another one, and where no training checkpoint is whole.
    """
    bring = _Downloads(client, place, run, tries)
    data = bring.persist(lambda: layout.read_object(client, place, place.key(layout.RUN)))
    if data is None:
        raise MayaError(f"{place} holds no run; `maya watch` makes one")
    identity, ours = layout.identity(data), read_json(run / IDENTITY).get("id")
    if ours not in (None, identity):
        raise MayaError(f"{run} holds another run than {place}; choose another folder")
    begun = max((i.step for i in run_files.checkpoints(run) if i.step is not None), default=None)
    if ours is None and begun is not None:
        raise MayaError(f"{run} holds a run that was never uploaded to {place}; choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / IDENTITY, {"id": identity, "storage": str(place)})
    bring.logs()
    for other in bring.persist(lambda: sorted(layout.stored_names(client, place))):
        if "/" not in other and not (run / other).exists():
            bring.checkpoint(other)
    steps = bring.persist(lambda: layout.stored_steps(client, place))
    if name:
        steps = [(step, stored) for step, stored in steps if Path(stored).name in (name, f"{name}.pt")]
        if not steps:
            raise MayaError(f"{place} has no whole checkpoint {name}")
    return bring.newest(steps, begun)


class _Downloads:
    def __init__(self, client: Any, place: Place, run: Path, tries: int) -> None:
        self.client, self.place, self.run, self.tries = client, place, run, tries

    def newest(self, steps: list[tuple[int, str]], begun: int | None) -> Path | None:
        """The newest of these checkpoints that is whole; the folder's own where that is as new."""
        for step, name in reversed(steps):
            if begun is not None and begun >= step:
                log.info("%s has step %d: no training checkpoint is newer in the storage", self.run, begun)
                return None
            if self.checkpoint(name):
                return self.run / name
        if steps:
            raise MayaError(f"{self.place}: none of the {len(steps)} training checkpoints is whole")
        return None

    def checkpoint(self, name: str) -> bool:
        """Bring one checkpoint under its final name, all of it or nothing; False if it is not whole."""
        manifest = self.persist(lambda: layout.read_manifest(self.client, self.place, name))
        if manifest is None:
            return False
        began, aside = time.monotonic(), self.run / f"{name}.partial"
        for file in manifest.files:
            if not self.file(file.key, aside / file.path, file.sha256, file.size):
                log.warning(
                    "%s is not whole in the storage: %s has other bytes than were sent", name, file.path
                )
                shutil.rmtree(aside, ignore_errors=True)
                return False
        _put_in_place(manifest, aside, self.run)
        size = sum(file.size for file in manifest.files)
        log.info("%s: %.1f MB verified in %.1f s", name, size / 1e6, time.monotonic() - began)
        return True

    def logs(self) -> None:
        """Bring the other files that the folder lacks. Their digest is stored with them."""
        prefix = self.place.key(layout.LOGS) + "/"
        for key in self.persist(lambda: list(keys(self.client, self.place.bucket, prefix))):
            path = self.run / key.removeprefix(prefix)
            if path.exists() or ".." in Path(key).parts:
                continue
            facts = self.persist(functools.partial(head, self.client, self.place.bucket, key))
            partial = path.with_name(path.name + ".partial")
            if facts and self.file(key, partial, facts["Metadata"].get("sha256", ""), facts["ContentLength"]):
                partial.replace(path)
            else:
                log.warning("%s: the storage has other bytes than were sent; it is left out", path.name)

    def file(self, key: str, path: Path, sha256: str, size: int) -> bool:
        """Download an object; False if it has another digest, also when it is read a second time.

        A part of it that is there is continued: its digest tells in the end whether it was right.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                self._fetch(key, path, size)
            except Exception as error:
                if not is_missing(error):
                    raise
                return False
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return True
            path.unlink()
        return False

    def _fetch(self, key: str, path: Path, size: int) -> None:
        with path.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            last = -1

            def moved() -> bool:
                nonlocal last
                before, last = last, file.tell()
                return last > before

            while file.tell() < size:
                self.persist(lambda: self._read_on(key, file, size), moved)
            file.flush()
            os.fsync(file.fileno())

    def _read_on(self, key: str, file: Any, size: int) -> None:
        position = file.seek(0, os.SEEK_END)
        wanted = f"bytes={position}-{size - 1}"
        body = self.client.get_object(Bucket=self.place.bucket, Key=key, Range=wanted)["Body"]
        for piece in body.iter_chunks(_PIECE):
            file.write(piece)

    def persist(self, action: Callable[[], T], moved: Callable[[], bool] = lambda: False) -> T:
        """Do something until it works, with growing pauses; `moved` tells that the failed try was not in
        vain. Raises MayaError for what waiting does not mend, and after so many tries."""
        failures = 0
        while True:
            try:
                return action()
            except Exception as error:
                full = isinstance(error, OSError) and is_disk_full(error)
                final = isinstance(error, MayaError) or is_missing(error) or not is_expected(error)
                if full or final:
                    raise
                failures = 1 if moved() else failures + 1
                if is_permanent(error) or failures >= self.tries:
                    raise MayaError(f"cannot read {self.place}: {reason(error)}") from None
                pause = backoff(failures)
                log.warning("%s; next try in %.0f s", reason(error), pause)
                time.sleep(pause)


def _put_in_place(manifest: Manifest, aside: Path, run: Path) -> None:
    """Give verified files their final names: a folder in one rename, else the main file last."""
    name = manifest.name
    outside = [file for file in manifest.files if not file.path.startswith(f"{name}/")]
    for file in sorted(outside, key=lambda file: -len(file.path)):
        _rename(aside, run, file)
    if len(outside) < len(manifest.files):
        shutil.rmtree(run / name, ignore_errors=True)
        (aside / name).replace(run / name)
    shutil.rmtree(aside, ignore_errors=True)


def _rename(aside: Path, run: Path, file: StoredFile) -> None:
    (run / file.path).parent.mkdir(parents=True, exist_ok=True)
    (aside / file.path).replace(run / file.path)
