"""Injects every fault of the network, of the storage and of the watcher itself, and writes what happened.

    python -m tools.fault_campaign_storage        the table of docs/reliability-storage.md, about two minutes

Each row is a run folder of its own, with checkpoints of random bytes, before an S3 server process on the
loopback (moto's) behind a proxy that misbehaves. "Lost" counts the bytes of checkpoints that were written and
are in the end neither in the run folder nor restorable from the storage, by SHA-256.
"""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest import mock

from maya.errors import MayaError
from maya.files import file_sha256, replacing
from maya.storage import layout, run_files, watcher
from maya.storage.download import restore
from maya.storage.s3 import Place, connect, keys
from maya.storage.upload import UploadOptions
from maya.storage.watcher import Watcher, WatchOptions
from tools import s3_server
from tools.s3_faults import DOWNLOAD_FAULTS, UPLOAD_FAULTS
from tools.s3_server import BUCKET, Fault, Proxy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability-storage.md"
BEGIN, END = "<!-- rows: python -m tools.fault_campaign_storage -->", "<!-- end of rows -->"
MB = 1_000_000


@dataclass
class FaultCase:
    """A run folder and its place in the storage. written: the SHA-256 of each checkpoint, by its name."""

    top: Path
    proxy: Proxy
    place: Place = field(default_factory=lambda: Place(BUCKET, f"runs/{uuid.uuid4().hex[:8]}"))
    written: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.top / "run"

    def write(self, step: int, megabytes: float = 4.2) -> Path:
        """A training checkpoint of random bytes whose checksums are right, as the training writes it."""
        path = self.run / "checkpoints" / f"step-{step:07d}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
            archive.writestr("data", os.urandom(int(megabytes * MB)))
        self.written[f"checkpoints/{path.name}"] = file_sha256(path), path.stat().st_size
        return path

    def watcher(self, **options: int) -> Watcher:
        upload = UploadOptions(part_mib=1, threads=2)
        made = WatchOptions(every_seconds=0.05, keep_local=1, upload=upload, **options)
        return Watcher(self.run, self.place, connect(attempts=2, read_seconds=3), made)

    def lost(self) -> int:
        """Bytes of checkpoints that are neither here nor restorable."""
        total = 0
        for name, (sha256, size) in self.written.items():
            if (self.run / name).is_file() and file_sha256(self.run / name) == sha256:
                continue
            with tempfile.TemporaryDirectory() as folder, suppress(MayaError):
                path = restore(connect(), self.place, Path(folder), name=Path(name).stem, tries=3)
                if path is not None and file_sha256(path) == sha256:
                    continue
            total += size
        return total


Scenario = Callable[[FaultCase], tuple[str, str, int]]  # -> (injected, happened, bytes sent twice)


@dataclass(frozen=True)
class StorageOutcome:
    """A row. happened: what the watcher did. again: bytes that were sent or read twice."""

    fault: str
    injected: str
    happened: str
    seconds: float
    again: int
    lost: int


def during_upload(case: FaultCase, fault: Fault) -> tuple[str, str, int]:
    """Two checkpoints go up while a fault happens; the older one is deleted here only when it is safe."""
    case.write(100)
    case.write(200)
    (case.run / "metrics.jsonl").write_text("{}\n")
    case.proxy.faults.append(fault)
    problems: list[str] = []
    seen = case.watcher()
    with mock.patch.object(watcher.log, "warning", lambda *args: problems.append(str(args))):
        ended = seen.finish()
    case.proxy.faults.clear()
    kept = len(list(case.run.glob("checkpoints/*")))
    size = sum(size for _, size in case.written.values())
    verdict = f"{ended[0]}" if ended else f"all verified, {2 - kept} older deleted here"
    text = f"{len(problems)} look(s) failed and were repeated; {verdict}"
    return f"{fault.happened} × {fault.action}", text, max(0, seen.uploader.sent - size)


def during_download(case: FaultCase, fault: Fault) -> tuple[str, str, int]:
    case.write(200)
    case.watcher().finish()
    case.proxy.faults.append(fault)
    path = restore(connect(attempts=2), case.place, case.top / "back", tries=3)
    case.proxy.faults.clear()
    (expected, _) = case.written["checkpoints/step-0000200.pt"]
    right = path is not None and file_sha256(path) == expected
    shutil.rmtree(case.run)
    return f"{fault.happened} × {fault.action}", f"restored, SHA-256 {'right' if right else 'WRONG'}", 0


def spawn(case: FaultCase) -> subprocess.Popen:
    command = [sys.executable, "-m", "maya.recipes.cli", "watch", str(case.run), "--to", str(case.place)]
    for option in ("upload.part_mib=1", "upload.threads=1", "every_seconds=0.1", "keep_local=1"):
        command += ["--set", option]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def killed_at(case: FaultCase, request: str, skip: int = 0) -> tuple[str, str, int]:
    """SIGKILL of the watcher while a request waits for its answer; then another watcher."""
    case.write(100)
    case.write(200)
    fault = Fault(action="hang", when=request, skip=skip)
    case.proxy.faults.append(fault)
    process = spawn(case)
    for _ in range(1200):
        if fault.happened:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    case.proxy.faults.clear()
    stored = len(layout.stored_steps(connect(), case.place))
    before = case.proxy.body_bytes
    ended = case.watcher().finish()
    size = sum(size for _, size in case.written.values())
    sent = case.proxy.body_bytes - before
    verdict = ended[0] if ended else "all verified"
    text = (
        f"{stored} of 2 checkpoints were whole; the next watcher sent {sent / MB:.1f} of {size / MB:.1f} MB"
    )
    return f"SIGKILL at {request.replace('.*', ' … ')}", f"{text}; {verdict}", 0


def outage(case: FaultCase) -> tuple[str, str, int]:
    """The storage is away while five checkpoints are written."""
    seen = case.watcher()
    fault = Fault(action="refuse", when=".", times=10**6)
    case.proxy.faults.append(fault)
    looks = 0
    for step in range(1, 6):
        case.write(step * 100, 1.1)
        looks += bool(seen._try_pass(logs=False))
    here = len(list(case.run.glob("checkpoints/*.pt")))
    case.proxy.faults.clear()
    ended = seen.finish()
    text = f"{looks} looks failed, {here} of 5 stayed here; when it was back: "
    return "no connection while 5 checkpoints are written", text + (ended[0] if ended else "all verified"), 0


def vanished(case: FaultCase) -> tuple[str, str, int]:
    """Someone deletes a verified object before the watcher deletes its local copy."""
    case.write(100)
    seen = case.watcher()
    seen.pass_once()
    for key in list(keys(connect(), BUCKET, case.place.key("files/"))):
        connect().delete_object(Bucket=BUCKET, Key=key)
    path = case.run / "checkpoints/step-0000100.pt"
    case.write(200)
    seen.pass_once()
    kept = path.is_file()
    seen.pass_once()
    return (
        "the verified object is deleted by another hand",
        f"kept here: {kept}; then uploaded again",
        case.written["checkpoints/step-0000100.pt"][1],
    )


def corrupt_in_storage(case: FaultCase) -> tuple[str, str, int]:
    """The newest object changes in the storage after it was verified, and the machine is lost."""
    case.write(100)
    case.write(200)
    case.watcher().finish()
    (key,) = keys(connect(), BUCKET, case.place.key("files/checkpoints/step-0000200.pt/"))
    connect().put_object(Bucket=BUCKET, Key=key, Body=b"x" * case.written["checkpoints/step-0000200.pt"][1])
    path = restore(connect(), case.place, case.top / "back", tries=3)
    text = f"restored {path.name if path else None}: the damaged one was named and passed over"
    return "the stored object itself is changed; its local copy still exists", text, 0


def damaged_newest(case: FaultCase) -> tuple[str, str, int]:
    """The newest checkpoint is cut off on the local disk."""
    from maya.train.checkpoints.checkpoint import damage

    case.write(100)
    case.write(200)
    path = case.write(300)
    path.write_bytes(path.read_bytes()[:-1000])
    case.written.pop("checkpoints/step-0000300.pt")
    seen = case.watcher()
    seen.damage = damage
    ended = seen.finish()
    kept = sorted(i.step or 0 for i in run_files.checkpoints(case.run))
    return "the newest checkpoint is cut off on the disk", f"{ended[0]}: not uploaded; here stay {kept}", 0


def full_disk(case: FaultCase) -> tuple[str, str, int]:
    """No byte can be written locally; the uploads are what makes room."""
    case.write(100)
    case.write(200)
    seen = case.watcher()
    watcher.claim(seen.client, case.place, case.run)
    with mock.patch.object(watcher, "write_json", side_effect=OSError(28, "No space left on device")):
        ended = seen.finish()
    kept = len(list(case.run.glob("checkpoints/*.pt")))
    return (
        "ENOSPC for all that the watcher writes",
        f"{ended[0] if ended else 'all verified'}, {2 - kept} older deleted here",
        0,
    )


def clock_jump(case: FaultCase) -> tuple[str, str, int]:
    case.write(100)
    case.write(200)
    seen = case.watcher()
    with mock.patch.object(time, "time", lambda: 1e9):
        ended = seen.finish()
    return (
        "the clock says 2001 while it uploads",
        ended[0] if ended else "all verified: only a monotonic clock is used",
        0,
    )


def deleted_early(case: FaultCase) -> tuple[str, str, int]:
    """The training deletes a checkpoint while its parts are sent."""
    path = case.write(100)
    fault = Fault(action="slow", when="partNumber=1", rate=2e6)
    case.proxy.faults.append(fault)
    real = watcher.digest_file

    def deleting(*args: object) -> object:
        digest = real(*args)  # type: ignore[arg-type]
        path.unlink()
        return digest

    with mock.patch.object(watcher, "digest_file", deleting):
        ended = case.watcher().finish()
    case.proxy.faults.clear()
    return (
        "the training deletes the file while it is sent",
        ended[0] if ended else "sent to its end from the open file, verified",
        0,
    )


SPECIAL: dict[str, Scenario] = {
    "watcher killed in a part": lambda case: killed_at(case, "PUT .*partNumber=4"),
    "watcher killed while parts are joined": lambda case: killed_at(case, "POST .*uploadId"),
    "watcher killed before the manifest": lambda case: killed_at(case, "PUT .*manifests"),
    "watcher killed while it deletes": lambda case: killed_at(case, "HEAD .*step-0000100", skip=2),
    "storage away": outage,
    "object vanishes": vanished,
    "object changes in the storage": corrupt_in_storage,
    "newest checkpoint damaged": damaged_newest,
    "local disk full": full_disk,
    "clock jumps": clock_jump,
    "checkpoint deleted early": deleted_early,
}  # fmt: skip


def rows(port: int) -> list[StorageOutcome]:
    """All faults, one after another."""
    plans: dict[str, Scenario] = {}
    for name, fault in UPLOAD_FAULTS.items():
        plans[f"upload: {name}"] = partial(during_upload, fault=replace(fault))
    for name, fault in DOWNLOAD_FAULTS.items():
        plans[f"download: {name}"] = partial(during_download, fault=replace(fault))
    outcomes = []
    for title, plan in (plans | SPECIAL).items():
        with tempfile.TemporaryDirectory() as folder, s3_server.before(port) as proxy:
            os.environ |= s3_server.environment(proxy.url)
            case, began = FaultCase(Path(folder), proxy), time.monotonic()
            injected, happened, again = plan(case)
            seconds = time.monotonic() - began
            outcomes.append(StorageOutcome(title, injected, happened, seconds, again, case.lost()))
            print(outcomes[-1], flush=True)
    return outcomes


def table(outcomes: list[StorageOutcome]) -> str:
    lines = ["| fault | injected | what happened | s | MB twice | bytes lost |", "|---|---|---|---|---|---|"]
    lines += [f"| {o.fault} | {o.injected} | {o.happened} | {o.seconds:.1f} | {o.again / MB:.1f} | {o.lost} |"
              for o in outcomes]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n")[0]).parse_args()
    logging.disable(logging.ERROR)
    with mock.patch.object(watcher, "_LONGEST_PAUSE", 0.5), s3_server.serve() as port:
        outcomes = rows(port)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(outcomes)}\n{END}{rest.split(END)[1]}")
    lost = sum(outcome.lost for outcome in outcomes)
    print(f"{len(outcomes)} faults, {lost} bytes lost → {PAGE}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
