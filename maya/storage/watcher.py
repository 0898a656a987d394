"""The watcher of a run folder: new checkpoints and logs go up, verified ones that are too many go away.

The truth lies in the storage and in the run folder; the watcher keeps nothing that it could lose. It may be
killed at any moment and started again. A checkpoint is deleted only after the server has just said that it
has all its bytes, and after its manifest, which makes an upload count, was read back.
"""

import json
import logging
import os
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maya.config import config
from maya.errors import MayaError
from maya.files import read_json, write_json
from maya.ranges import Count, PosFloat, PosInt
from maya.storage import layout, run_files
from maya.storage.digest import MIB, digest_file
from maya.storage.layout import Manifest, StoredFile
from maya.storage.run_files import LocalCheckpoint
from maya.storage.s3 import Place, head, is_expected, is_permanent, keys, reason
from maya.storage.upload import Stopped, Uploader, UploadOptions, uploads

log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0  # seconds
_TRIES = 8
STATUS, IDENTITY = "watch.json", "storage.json"


@config
class WatchOptions:
    """keep_local: newest training checkpoints that stay in the run folder. keep_remote: newest ones that
    stay in the storage; 0: all. Both keep the one that validated best, too. Epochs, best.pt and averaged.pt
    always stay. every_seconds: between looks into the folder; logs_seconds: between uploads of the logs."""

    keep_local: PosInt = 2
    keep_remote: Count = 0
    every_seconds: PosFloat = 10.0
    logs_seconds: PosFloat = 300.0
    upload: UploadOptions = field(default_factory=UploadOptions)


@dataclass(kw_only=True, slots=True)
class WatchStatus:
    """What watch.json says. verified: checkpoints that this process knows to be whole in the storage."""

    storage: str
    process: int
    seconds: float = 0.0  # since 1970, of the last change
    verified: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    error: str = ""
    failures: int = 0  # in a row
    sent_bytes: int = 0


class Watcher:
    """Brings a run folder to a place in object storage.

    damage: why a checkpoint file must not be uploaded, empty for a sound one.
    """

    def __init__(
        self, run: Path, place: Place, client: Any, options: WatchOptions | None = None, *,
        stop: threading.Event | None = None, damage: Callable[[Path], str] = lambda _: "",
    ) -> None:  # fmt: skip
        self.run, self.place, self.client = run, place, client
        self.options = options or WatchOptions()
        self.stop, self.damage = stop or threading.Event(), damage
        self.uploader = Uploader(
            client=client, bucket=place.bucket, options=self.options.upload, stop=self.stop
        )
        self.status = WatchStatus(storage=str(place), process=os.getpid())
        self._claimed = self._permanent = False
        self._verified: dict[str, tuple] = {}  # stamps, by name
        self._steps: set[int] = set()  # verified ones, whether they are still here or not
        self._damaged: dict[str, tuple] = {}
        self._logs: dict[str, tuple[int, int]] = {}
        self._logs_at = -float("inf")

    def watch(self) -> None:
        """Look into the folder again and again until `stop` is set. Errors of the network and of the storage
        are logged and tried again after a pause that doubles up to five minutes.

        Raises MayaError for what a person must mend, if it is met in the very first look.
        """
        while not self.stop.is_set():
            problem = self._try_pass(logs=False)
            if problem and not self._claimed and self._permanent:
                raise MayaError(f"cannot use {self.place}: {problem}")
            self.stop.wait(self._pause(problem))

    def finish(self) -> list[str]:
        """Upload all that is there, the logs too. Returns why something is not verified; nothing if all is.

        Gives up for what a person must mend, and after eight tries in a row that sent nothing.
        """
        before = -1
        while (problem := self._try_pass(logs=True)) or self._waiting():
            before, vain = self.uploader.sent, before == self.uploader.sent
            if self._permanent or self.stop.is_set() or (vain and self.status.failures >= _TRIES):
                return [problem]
            self.stop.wait(self._pause(problem))  # without a problem, a file was written again meanwhile
        return [f"{name} is damaged" for name in self._damaged]

    def _pause(self, problem: str) -> float:
        """Seconds until the next try."""
        if not problem:
            return self.options.every_seconds
        pause = backoff(self.status.failures)
        say = log.error if self._permanent else log.warning
        say("%s; next try in %.0f s", problem, pause)
        return pause

    def _try_pass(self, *, logs: bool) -> str:
        """`pass_once`; returns what went wrong, or nothing."""
        self._permanent, problem = False, ""
        try:
            self.pass_once(logs=logs)
        except Stopped:
            problem = "it was stopped"
        except Exception as error:
            problem = reason(error) if is_expected(error) else traceback.format_exc()
            self._permanent = is_permanent(error) or not self._claimed and isinstance(error, MayaError)
        self._say(error=problem, failures=self.status.failures + 1 if problem else 0)
        return problem

    def pass_once(self, *, logs: bool = False) -> None:
        """Upload all that is new, then delete what is too many. logs: also logs that were sent just now.

        After each checkpoint the folder is read again, because the newest one goes first. Raises botocore's
        errors, MayaError for bytes that do not arrive, and Stopped.
        """
        if not self._claimed:
            claim(self.client, self.place, self.run)
            self._claimed = True
        done: set[str] = set()
        while (item := next((i for i in self._waiting() if i.name not in done), None)) is not None:
            done.add(item.name)
            self._upload(item)
            self._upload_logs(force=False)
        self._upload_logs(force=logs)
        self._delete_local()
        if done:
            self._delete_remote()
        self._say()

    def _waiting(self) -> list[LocalCheckpoint]:
        waiting, oldest, best = [], self._oldest_wanted(), run_files.best_step(self.run)
        for item in run_files.checkpoints(self.run):
            stamp = _stamp(item, self.run)
            if stamp is None or stamp in (self._verified.get(item.name), self._damaged.get(item.name)):
                continue
            if item.step is None or item.step >= oldest or item.step == best:
                waiting.append(item)
        self.status.waiting = [item.name for item in waiting]
        return waiting

    def _oldest_wanted(self) -> int:
        """The step below which keep_remote would delete a checkpoint at once."""
        keep = self.options.keep_remote
        return sorted(self._steps)[-keep] if 0 < keep <= len(self._steps) else 0

    def _upload(self, item: LocalCheckpoint) -> None:
        stamp, began, before = _stamp(item, self.run), time.monotonic(), self.uploader.sent
        if stamp is None:
            return
        stored = []
        for path in item.files:
            if why := self._why_damaged(path):
                log.error(
                    "%s is damaged (%s): it is not uploaded and no older one is deleted for it", path, why
                )
                self._damaged[item.name] = stamp
                return
            try:
                stored.append(self._send(path, keyed=True))
            except FileNotFoundError:
                log.warning("%s was deleted before it was uploaded; raise train.keep", path)
                return
        if _stamp(item, self.run) not in (stamp, None):  # written again meanwhile: the next look takes it
            return
        manifest = Manifest(name=item.name, files=tuple(stored))
        layout.write_object(
            self.client, self.place, layout.manifest_key(self.place, item.name), manifest.bytes()
        )
        self._verified[item.name] = stamp
        if item.step is not None:
            self._steps.add(item.step)
        self._forget_versions(manifest)
        size, seconds = sum(file.size for file in stored), time.monotonic() - began
        new = self.uploader.sent - before
        log.info(
            "%s: %.1f MB verified in the storage, %.1f MB sent in %.1f s",
            item.name,
            size / 1e6,
            new / 1e6,
            seconds,
        )
        self._say()

    def _why_damaged(self, path: str) -> str:
        return self.damage(self.run / path) if path.endswith(".pt") else ""

    def _send(self, path: str, *, keyed: bool) -> StoredFile:
        """Upload a file of the run and verify it on the server. keyed: under a key with its digest."""
        with (self.run / path).open("rb") as file:  # stays readable if the training deletes it meanwhile
            digest = digest_file(file, self.options.upload.part_mib * MIB)
            key = layout.file_key(self.place, path, digest.sha256)
            if not keyed:
                key = self.place.key(f"{layout.LOGS}/{path}")
            etag = self.uploader.upload(file, digest, key)
        return StoredFile(path=path, key=key, size=digest.size, sha256=digest.sha256, etag=etag)

    def _forget_versions(self, manifest: Manifest) -> None:
        """Delete earlier versions of a checkpoint's files, and what was begun of them."""
        for file in manifest.files:
            prefix = self.place.key(f"{layout.FILES}/{file.path}/")
            for upload in list(uploads(self.client, self.place.bucket, prefix)):
                self.client.abort_multipart_upload(
                    Bucket=self.place.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            for key in list(keys(self.client, self.place.bucket, prefix)):
                if key != file.key:
                    self.client.delete_object(Bucket=self.place.bucket, Key=key)

    def _upload_logs(self, *, force: bool) -> None:
        if not force and time.monotonic() - self._logs_at < self.options.logs_seconds:
            return
        for path in run_files.other_files(self.run):
            try:
                stat = (self.run / path).stat()
                if self._logs.get(path) != (stat.st_size, stat.st_mtime_ns):
                    self._send(path, keyed=False)
                    self._logs[path] = stat.st_size, stat.st_mtime_ns
            except FileNotFoundError:
                continue
            except MayaError as error:  # a log that grows while it is read: the next look takes it
                log.info("%s: %s", path, error)
        self._logs_at = time.monotonic()

    def _delete_local(self) -> None:
        """Delete training checkpoints that are verified and neither among the newest nor the best."""
        items = [
            i for i in run_files.checkpoints(self.run) if i.step is not None and i.name not in self._damaged
        ]
        items.sort(key=lambda item: -(item.step or 0))
        oldest = self._oldest_wanted()
        for item in items[self.options.keep_local :]:
            stamp = _stamp(item, self.run)
            if item.step == run_files.best_step(self.run) or stamp is None:
                continue
            superseded = (item.step or 0) < oldest and item.name not in self._verified
            if not superseded and not (self._verified.get(item.name) == stamp and self._is_whole(item)):
                continue
            delete_local(self.run / item.name, [self.run / path for path in item.files])
            self._verified.pop(item.name, None)
            self.status.deleted.append(item.name)
            why = (
                "is older than all that the storage shall keep"
                if superseded
                else "is verified in the storage"
            )
            log.info("%s %s: deleted here", item.name, why)

    def _is_whole(self, item: LocalCheckpoint) -> bool:
        """Whether the server has all files of a checkpoint now; if not, it will be uploaded again."""
        manifest = layout.read_manifest(self.client, self.place, item.name)
        whole = manifest is not None and {f.path for f in manifest.files} == set(item.files)
        if (
            manifest is None
            or not whole
            or not all(is_stored(self.client, self.place, f) for f in manifest.files)
        ):
            log.error("%s is no longer whole in the storage: it stays here and is uploaded again", item.name)
            self._verified.pop(item.name, None)
            self._steps.discard(item.step or 0)
            return False
        return True

    def _delete_remote(self) -> None:
        """Delete what keep_remote does not keep: first the manifest, then the files."""
        if not self.options.keep_remote:
            return
        local = {item.step for item in run_files.checkpoints(self.run)}
        for step, name in layout.stored_steps(self.client, self.place)[: -self.options.keep_remote]:
            if step == run_files.best_step(self.run) or step in local:
                continue
            self.client.delete_object(Bucket=self.place.bucket, Key=layout.manifest_key(self.place, name))
            for key in list(keys(self.client, self.place.bucket, self.place.key(f"{layout.FILES}/{name}/"))):
                self.client.delete_object(Bucket=self.place.bucket, Key=key)
            log.info("%s: deleted in the storage, which keeps %d", name, self.options.keep_remote)

    def _say(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.status, name, value)
        self.status.verified = sorted(self._verified)
        self.status.seconds, self.status.sent_bytes = time.time(), self.uploader.sent
        try:
            write_json(self.run / STATUS, asdict(self.status))
        except (OSError, MayaError) as error:  # a full disk: the uploads are what makes room
            log.warning("%s cannot be written: %s", STATUS, error)


def claim(client: Any, place: Place, run: Path) -> None:
    """Mark the place as this run's. MayaError if it is another run's."""
    run_id, key = read_json(run / IDENTITY).get("id"), place.key(layout.RUN)
    data = layout.read_object(client, place, key)
    stored_id = layout.identity(data) if data is not None else ""
    if stored_id and stored_id != run_id:
        raise MayaError(
            f"{place} holds another run: choose another place, or bring that run here by `maya restore`"
        )
    if not run_id:
        run_id = uuid.uuid4().hex
        write_json(run / IDENTITY, {"id": run_id, "storage": str(place)})
    if not stored_id:
        layout.write_object(client, place, key, json.dumps({"format": layout.FORMAT, "id": run_id}).encode())


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, spread so that many machines do not return at once."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 20))
    return longest * (0.5 + 0.5 * int.from_bytes(os.urandom(2)) / 65535)


def is_stored(client: Any, place: Place, file: StoredFile) -> bool:
    """Whether the server has the bytes that a manifest names, by size and its own digest."""
    answer = head(client, place.bucket, file.key)
    return answer is not None and (answer["ContentLength"], answer["ETag"].strip('"')) == (
        file.size,
        file.etag,
    )


def delete_local(path: Path, files: list[Path]) -> None:
    """Delete a checkpoint; a folder loses its final name first, so that none is ever half there."""
    if path.is_dir():
        aside = path.with_name(path.name + ".deleting")
        path.replace(aside)
        shutil.rmtree(aside)
    for file in files:
        file.unlink(missing_ok=True)


def _stamp(item: LocalCheckpoint, run: Path) -> tuple | None:
    try:
        return item.stamp(run)
    except OSError:
        return None
