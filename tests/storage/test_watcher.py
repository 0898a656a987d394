"""The watcher against a real S3 server: what it uploads, verifies, deletes, and continues after a kill."""

import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maya.errors import MayaError
from maya.recipes import cli
from maya.storage import layout, run_files, watcher
from maya.storage.digest import digest_file
from maya.storage.download import restore
from maya.storage.s3 import Place, connect, keys
from maya.storage.upload import UploadOptions
from maya.storage.watcher import Watcher, WatchOptions
from tools.s3_faults import DOWNLOAD_FAULTS, UPLOAD_FAULTS
from tools.s3_server import BUCKET, Fault, Proxy

SMALL = UploadOptions(part_mib=1, threads=2)
MIB = 1 << 20


def make(run: Path, step: int, size: int = 1000) -> Path:
    """A checkpoint under its final name, of random bytes."""
    path = run / "checkpoints" / f"step-{step:07d}.pt"
    path.write_bytes(os.urandom(size))
    return path


def make_sound(run: Path, step: int, size: int) -> Path:
    """A checkpoint whose checksums are right, as `maya watch` compares them."""
    path = run / "checkpoints" / f"step-{step:07d}.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", os.urandom(size))
    return path


def watching(run: Path, place: Place, **options: Any) -> Watcher:
    made = WatchOptions(every_seconds=0.05, upload=SMALL, **options)
    return Watcher(run, place, connect(attempts=2, read_seconds=3), made)


def steps(run: Path) -> list[int]:
    return sorted(item.step for item in run_files.checkpoints(run) if item.step is not None)


def stored_steps(place: Place) -> list[int]:
    return [step for step, _ in layout.stored_steps(connect(), place)]


def restored(place: Place, folder: Path) -> dict[str, bytes]:
    """The files of the run as another machine gets them."""
    restore(connect(attempts=2), place, folder, tries=3)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run, but for the watcher's own."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in run_files.OWN]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_run_goes_up_and_comes_back(run: Path, place: Place, proxy: Proxy, tmp_path: Path) -> None:
    sent = {f"checkpoints/{make(run, s, 3 * MIB + s).name}": b"" for s in (100, 200, 300, 400)}
    (run / "best.pt").write_bytes(b"best" * 1000)
    (run / "metrics.jsonl").write_text("{}\n")
    (run / "decode" / "test").mkdir(parents=True)
    (run / "decode" / "test" / "hyps.jsonl").write_text("")
    (run / "validations.json").write_text(
        json.dumps({s: {"error": e} for s, e in (("100", 0.5), ("200", 0.4), ("300", 0.4))})
    )
    for name in ("checkpoints/step-0000500.pt.partial", "tokens_train.arrow", "train.lock"):
        (run / name).write_bytes(b"x")
    sent = {name: (run / name).read_bytes() for name in sent}
    assert watching(run, place).finish() == []
    assert steps(run) == [200, 300, 400]  # the best one stays, and the two newest
    assert stored_steps(place) == [100, 200, 300, 400]
    back = restored(place, tmp_path / "back")
    assert sorted(back) == [
        "best.pt", "checkpoints/step-0000400.pt", "decode/test/hyps.jsonl", "metrics.jsonl",
        "validations.json",
    ]  # fmt: skip
    assert back["checkpoints/step-0000400.pt"] == sent["checkpoints/step-0000400.pt"]
    assert back["best.pt"] == b"best" * 1000
    path = restore(connect(), place, tmp_path / "old", name="step-0000100")
    assert path is not None and path.read_bytes() == sent["checkpoints/step-0000100.pt"]
    proxy.log.clear()
    assert watching(run, place).finish() == []  # another process sends nothing twice
    assert not [r for r in proxy.log if r.startswith(("PUT", "POST")) and "manifests" not in r]


def test_folders_and_checksums_beside(run: Path, place: Place, proxy: Proxy, tmp_path: Path) -> None:
    """A sharded checkpoint is a folder; a file NAME.suffix beside NAME belongs to it."""
    for step in (1, 2, 3):
        folder = run / "checkpoints" / f"step-{step:07d}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "0.bin").write_bytes(bytes([step]) * 2000)
        (folder / "meta.json").write_text(str(step))
    make(run, 4)
    (run / "checkpoints" / "step-0000004.pt.sha256").write_text("abc")
    sent = {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert watching(run, place, keep_local=1).finish() == []
    assert steps(run) == [4] and sorted(os.listdir(run / "checkpoints")) == [
        "step-0000004.pt", "step-0000004.pt.sha256",
    ]  # fmt: skip
    assert restored(place, tmp_path / "a") == {n: d for n, d in sent.items() if "step-0000004" in n}
    restore(connect(), place, tmp_path / "b", name="step-0000002")
    assert contents(tmp_path / "b") == {n: d for n, d in sent.items() if "step-0000002" in n}


def test_an_overwritten_best_replaces_the_earlier(
    run: Path, place: Place, proxy: Proxy, tmp_path: Path
) -> None:
    (run / "best.pt").write_bytes(b"1" * 1000)
    seen = watching(run, place)
    seen.pass_once()
    (run / "best.pt.new").write_bytes(b"2" * 1000)
    (run / "best.pt.new").replace(run / "best.pt")
    proxy.faults.append(Fault(action="500", when="PUT .*/manifests/best.pt", times=9))
    with pytest.raises(Exception, match="injected"):
        seen.pass_once()
    assert restored(place, tmp_path / "a")["best.pt"] == b"1" * 1000  # the earlier one is still whole
    proxy.faults.clear()
    seen.pass_once()
    assert restored(place, tmp_path / "b")["best.pt"] == b"2" * 1000
    assert len([k for k in keys(connect(), BUCKET, place.key("files/"))]) == 1


def test_keep_remote(run: Path, place: Place, proxy: Proxy) -> None:
    """Older checkpoints leave the storage, and are not sent at all where newer ones are there already."""
    seen = watching(run, place, keep_local=1, keep_remote=2)
    (run / "validations.json").write_text('{"2": {"error": 0.1}, "4": {"error": 0.1}}')
    for step in range(1, 7):
        make(run, step)
        seen.pass_once()
    assert steps(run) == [2, 6] and stored_steps(place) == [2, 5, 6]
    for step in range(10, 20):
        make(run, step)
    before = seen.uploader.sent
    seen.pass_once()
    assert (
        steps(run) == [2, 19] and stored_steps(place) == [2, 18, 19] and seen.uploader.sent == before + 2000
    )


def test_nothing_is_deleted_that_left_the_storage(run: Path, place: Place, proxy: Proxy, caplog: Any) -> None:
    """A checkpoint is looked at again just before it is deleted."""
    first = make(run, 1)
    seen = watching(run, place, keep_local=1)
    seen.pass_once()
    for key in list(keys(connect(), BUCKET, place.key("files/"))):
        connect().delete_object(Bucket=BUCKET, Key=key)
    make(run, 2)
    seen.pass_once()
    assert first.is_file() and "no longer whole" in caplog.text
    seen.pass_once()
    assert steps(run) == [2] and stored_steps(place) == [1, 2]


def test_damaged_checkpoint_is_not_uploaded(run: Path, place: Place, proxy: Proxy) -> None:
    for step in (1, 2, 3):
        make(run, step)
    seen = watching(run, place, keep_local=1)
    seen.damage = lambda path: "cut off" if path.name == "step-0000003.pt" else ""
    assert seen.finish() == ["checkpoints/step-0000003.pt is damaged"]
    assert steps(run) == [2, 3] and stored_steps(place) == [1, 2]


def test_another_run_is_refused(run: Path, place: Place, proxy: Proxy, tmp_path: Path) -> None:
    make(run, 1)
    assert watching(run, place).finish() == []
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    make(other, 1)
    assert "holds another run" in watching(other, place).finish()[0]
    with pytest.raises(MayaError, match="holds another run"):
        watching(other, place).watch()
    with pytest.raises(MayaError, match="was never uploaded"):
        restore(connect(), place, other)


def test_permanent_errors_end_the_first_look(run: Path, place: Place, proxy: Proxy) -> None:
    proxy.faults.append(Fault(action="forbid", when=".", times=99))
    with pytest.raises(MayaError, match=r"cannot use s3://.*check the rights of the key"):
        watching(run, place).watch()
    proxy.faults.clear()
    with pytest.raises(MayaError, match="create it, or check"):
        watching(run, Place("no-such-bucket", "a")).watch()


@pytest.mark.parametrize("name", UPLOAD_FAULTS)
def test_uploads_survive(name: str, run: Path, place: Place, proxy: Proxy, tmp_path: Path) -> None:
    """Whatever happens, what was sent is verified in the end, and an older one is deleted only then."""
    make(run, 1, 1000)
    sent = make(run, 2, 3 * MIB + 17).read_bytes()
    (run / "metrics.jsonl").write_text("{}\n")
    fault = replace(UPLOAD_FAULTS[name])
    proxy.faults.append(fault)
    assert watching(run, place, keep_local=1).finish() == []
    assert fault.happened > 0
    proxy.faults.clear()
    assert steps(run) == [2] and stored_steps(place) == [1, 2]
    back = restored(place, tmp_path / "back")
    assert back["checkpoints/step-0000002.pt"] == sent and back["metrics.jsonl"] == b"{}\n"
    assert not list(watcher.uploads(connect(), BUCKET, place.prefix))  # nothing begun is left to be paid for


@pytest.mark.parametrize("name", DOWNLOAD_FAULTS)
def test_downloads_survive(name: str, run: Path, place: Place, proxy: Proxy, tmp_path: Path) -> None:
    sent = make(run, 2, 3 * MIB + 17).read_bytes()
    assert watching(run, place).finish() == []
    fault = replace(DOWNLOAD_FAULTS[name])
    proxy.faults.append(fault)
    assert restored(place, tmp_path / "back")["checkpoints/step-0000002.pt"] == sent
    assert fault.happened > 0


def test_a_download_goes_on_where_it_broke_off(run: Path, place: Place, proxy: Proxy, tmp_path: Path) -> None:
    sent = make(run, 2, 4 * MIB).read_bytes()
    assert watching(run, place).finish() == []
    partial = tmp_path / "back/checkpoints/step-0000002.pt.partial/checkpoints/step-0000002.pt"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(sent[: 3 * MIB])
    client = connect()
    ranges: list[str] = []
    client.meta.events.register(
        "before-send.s3.GetObject", lambda request, **_: ranges.append(request.headers.get("Range"))
    )
    restore(client, place, tmp_path / "back")
    assert [r.decode() for r in ranges if r] == [f"bytes={3 * MIB}-{4 * MIB - 1}"]
    assert (tmp_path / "back/checkpoints/step-0000002.pt").read_bytes() == sent


def test_a_checkpoint_corrupted_in_the_storage_is_passed_over(
    run: Path, place: Place, proxy: Proxy, tmp_path: Path, caplog: Any
) -> None:
    first = make(run, 1).read_bytes()
    make(run, 2)
    assert watching(run, place).finish() == []
    (key,) = keys(connect(), BUCKET, place.key("files/checkpoints/step-0000002.pt/"))
    connect().put_object(Bucket=BUCKET, Key=key, Body=b"other" * 200)
    assert restored(place, tmp_path / "back") == {"checkpoints/step-0000001.pt": first}
    assert "step-0000002.pt is not whole in the storage" in caplog.text


def spawn(run: Path, place: Place, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "maya.recipes.cli", "watch", str(run), "--to", str(place)]
    command += [
        "--set",
        "upload.part_mib=1",
        "--set",
        "upload.threads=1",
        "--set",
        "every_seconds=0.1",
        *options,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def once(run: Path, place: Place) -> tuple[int, str]:
    """`maya watch --once` in this process."""
    return cli.run(["watch", str(run), "--to", str(place), "--once", "--set", "upload.part_mib=1"])


def test_killed_in_a_multipart_upload(
    run: Path, place: Place, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of the watcher in the fifth of eight parts: the next one sends the other four only. Meanwhile
    a second watcher is refused."""
    monkeypatch.setattr(os, "nice", lambda _: 0)
    sent = make_sound(run, 1, 8 * MIB - 1000).read_bytes()
    proxy.faults.append(Fault(action="hang", when="partNumber=5", times=1))
    process = spawn(run, place)
    try:
        until(lambda: any("partNumber=5" in r for r in proxy.log))
        status, text = once(run, place)
        assert status == 1 and "is watched by process" in text
    finally:
        process.kill()
        process.wait()
    proxy.faults.clear()
    proxy.log.clear()
    assert stored_steps(place) == [] and steps(run) == [1]
    assert once(run, place) == (0, "")
    assert sorted(r.partition("partNumber=")[2][0] for r in proxy.log if "partNumber" in r) == list("5678")
    assert restored(place, tmp_path / "back") == {"checkpoints/step-0000001.pt": sent}


def test_sigterm_ends_it(run: Path, place: Place, proxy: Proxy) -> None:
    make_sound(run, 1, 1000)
    process = spawn(run, place)
    try:
        until(lambda: stored_steps(place) == [1])
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
    status = json.loads((run / "watch.json").read_text())
    assert status["verified"] == ["checkpoints/step-0000001.pt"] and status["error"] == ""


def test_newest_goes_first(run: Path) -> None:
    for step in (1, 2, 3):
        make(run, step)
    (run / "best.pt").write_bytes(b"")
    (run / "checkpoints" / "epoch-0001.pt").write_bytes(b"")
    names = [Path(item.name).stem for item in run_files.checkpoints(run)]
    assert names == ["step-0000003", "best", "epoch-0001", "step-0000002", "step-0000001"]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_digest_of_every_size(size: int, tmp_path: Path, run: Path, place: Place, proxy: Proxy) -> None:
    (tmp_path / "a").write_bytes(os.urandom(size))
    with (tmp_path / "a").open("rb") as file:
        digest = digest_file(file, MIB)
        assert digest.size == size and len(digest.parts) == max(1, -(-size // MIB))
        etag = watching(run, place).uploader.upload(file, digest, place.key("a"))
    assert etag == digest.etag  # moto computed it from the bytes it received, as S3 does
