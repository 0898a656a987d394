"""A rank that dies or hangs ends the training of all ranks, with a sentence that names it.

A thread of each process publishes about once a second what its process does, in the launch's key-value store.
A process that has made no progress for `train.timeout_seconds` reads what the others have published: a
process that was stopped, or whose machine is gone, no longer answers; one that hangs is behind the others.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.distributed.distributed_c10d import _get_default_store

from maya.train.distributed import is_distributed, rank, world_size
from maya.train.step import Clock

INTERVAL = 1.0  # seconds between two notes
PATIENCE = 20.0  # seconds in which another process must publish anew, on a busy machine too
_SILENT = 30.0  # seconds for the store to answer
_NEXT = {
    "": "started", "validate": "waited for data", "data": "had its batch and counted tokens",
    "other": "computed losses", "forward": "computed gradients", "backward": "summed and applied gradients",
    "optimizer": "had ended the step, and logged, saved or validated",
    "average": "had ended the step, and logged, saved or validated",
}  # fmt: skip
_BETWEEN = ("optimizer", "average")  # what follows may take long: saving, validation


@dataclass(frozen=True, slots=True)
class LaunchHooks:
    """What started the processes. end: takes the sentence with which this process ends. note: takes what this
    process does, once a second."""

    end: Callable[[str], None] = partial(print, file=sys.stderr)
    note: Callable[[dict[str, Any]], object] = dict


class Watchdog:
    """Watches from `with` on. Nothing happens on one process, or with 0 seconds. step: the step that the
    process is in."""

    def __init__(self, clock: Clock, step: Callable[[], int], seconds: float, launch: LaunchHooks) -> None:
        self.clock, self.step, self.seconds, self.launch = clock, step, seconds, launch
        self._ended, self._number = threading.Event(), 0

    def __enter__(self) -> "Watchdog":
        if self.seconds and is_distributed():
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def doing(self) -> dict[str, Any]:
        """What this process does now. number: another one each time; laps: of the clock, so far."""
        self._number += 1
        last, idle = self.clock.last, time.perf_counter() - self.clock.mark
        words = f"in step {self.step()} it {_NEXT.get(last, last)}"
        return {
            "rank": rank(), "pid": os.getpid(), "host": socket.gethostname(), "number": self._number,
            "laps": self.clock.laps, "between": last in _BETWEEN, "idle": idle, "last": words,
        }  # fmt: skip

    def _watch(self) -> None:
        store, checked = _store(), 0.0
        while not self._ended.wait(INTERVAL):
            doing = self.doing()
            self.launch.note(doing)
            with suppress(RuntimeError):  # the store is gone: `_others` says so in time
                store.set(_key(rank()), json.dumps(doing))
            now = time.perf_counter()
            if doing["idle"] > self.seconds and now - checked > self.seconds:
                checked = now
                if sentence := self._reason(doing):
                    self._end(sentence)

    def _reason(self, own: dict[str, Any]) -> str:
        """Why no rank can go on; empty where all is as it should be."""
        before = _others()
        if before is None or self._ended.wait(PATIENCE) or (after := _others()) is None:
            return "" if self._ended.is_set() else "the process that keeps the launch's store does not answer"
        silent = [a for b, a in zip(before, after, strict=True) if a is None or a == b]
        missing = [number for number, note in enumerate(after) if note is None]
        if missing:
            return f"rank {missing[0]} never answered"
        if silent:
            _kill_here(silent)
            return _named(silent[0], "no longer answers: it was stopped, or its machine is gone")
        if self.clock.laps != own["laps"] or any(note["between"] for note in after):
            return ""
        behind = min(after, key=lambda note: note["laps"])
        if all(note["laps"] == behind["laps"] for note in after):
            return f"all ranks hang: {behind['last']} for {behind['idle']:.0f} s"
        return _named(behind, f"hangs for {behind['idle']:.0f} s")

    def _end(self, reason: str) -> None:
        if not self._ended.is_set():
            self.launch.end(f"no progress for {self.seconds:g} s (train.timeout_seconds): {reason}")
            os._exit(1)


def _named(note: dict[str, Any], what: str) -> str:
    return f"rank {note['rank']} (process {note['pid']} on {note['host']}) {what}; {note['last']}"


def _kill_here(notes: list[dict[str, Any]]) -> None:
    """End processes of this machine that no longer answer: the launcher would wait for them."""
    for note in notes:
        if note["host"] == socket.gethostname():
            with suppress(OSError):
                os.kill(note["pid"], signal.SIGKILL)


def _store() -> Any:
    """A connection of this thread's own: the process group blocks its own while it waits."""
    store: Any = _get_default_store()
    return store.clone()


def _key(number: int) -> str:
    return f"maya/doing/{number}"


def _others() -> list[Any] | None:
    """What each rank has published, None for one that never has; None where the store does not answer."""
    notes: list[Any] = []

    def read() -> None:
        with suppress(RuntimeError):
            store = _store()
            read = [
                json.loads(store.get(key)) if store.check([key]) else None
                for key in map(_key, range(world_size()))
            ]
            notes.extend(read)

    thread = threading.Thread(target=read, daemon=True)  # a store whose machine is gone blocks for ever
    thread.start()
    thread.join(_SILENT)
    return notes or None
