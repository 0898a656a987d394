"""One training per run folder: a second one is refused, and ended processes do not hold the lock."""

import errno
import json
import multiprocessing as mp
import os
import signal
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from maya import files
from maya.errors import MayaError
from maya.train.checkpoints import lock


def _hold(run: Path, ready: Connection, fork_too: bool) -> None:
    with lock.locked(run):
        worker = os.fork() if fork_too else -1
        if worker != 0:
            ready.send(worker)
        time.sleep(60)


def _holder(run: Path, *, fork_too: bool = False) -> tuple[mp.process.BaseProcess, int]:
    """A process that holds the lock, and the pid of the worker that it forked."""
    context = mp.get_context("fork")  # without another import of torch
    receiver, sender = context.Pipe()
    process = context.Process(target=_hold, args=(run, sender, fork_too), daemon=True)
    process.start()
    assert receiver.poll(20)
    return process, receiver.recv()


def test_second_training_is_refused_and_names_the_first(tmp_path: Path) -> None:
    process, _ = _holder(tmp_path)
    words = rf"is being trained by process {process.pid} on {socket.gethostname()} since 20\d\d-.*--name"
    with pytest.raises(MayaError, match=words), lock.locked(tmp_path):
        pass
    process.terminate()
    process.join()
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()


def test_killed_training_and_its_workers_release_the_lock(tmp_path: Path) -> None:
    process, worker = _holder(tmp_path, fork_too=True)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.kill(worker, 0)  # it is still there
    with lock.locked(tmp_path):
        pass
    os.kill(worker, signal.SIGKILL)


def test_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="within"), lock.locked(tmp_path):
        raise ValueError("within")
    process, _ = _holder(tmp_path)
    process.terminate()
    process.join()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_malformed_lock_file_still_locks(tmp_path: Path, content: str) -> None:
    process, _ = _holder(tmp_path)
    (tmp_path / lock.FILE).write_text(content)
    with pytest.raises(MayaError, match="is being trained by another process"), lock.locked(tmp_path):
        pass
    process.terminate()
    process.join()


def test_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "lockf", unsupported)
    with lock.locked(tmp_path):
        assert "its file system has no locks (No locks available)" in caplog.text
    monkeypatch.setattr(files, "fcntl", None)
    with lock.locked(tmp_path):
        assert "no file locks here" in caplog.text


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    refused = pytest.raises(MayaError, match=r"train\.lock cannot be written .*--run-dir")
    with refused, lock.locked(tmp_path / "file" / "run"):
        pass
