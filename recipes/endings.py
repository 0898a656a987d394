"""How the processes of a launch tell their launcher what they did last and why they ended.

torchrun names a file for each process, in a folder of its own. `Ending` goes there; "doing.json" stands
beside it.
"""

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maya.files import read_json, replacing

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun's protocol: where a process writes why it failed
_DOING = "doing.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How one process ended. text: a sentence for the user, or with `bug` a traceback."""

    rank: int
    status: int
    text: str
    bug: bool
    time: float  # seconds since 1970


def record(status: int, text: str, *, bug: bool) -> None:
    """Leave an Ending in the file that torchrun names; without one, print it."""
    path = os.environ.get(_ERROR_FILE)
    if not path:
        print(text, file=sys.stderr)
        return
    rank, now = int(os.environ.get("RANK", "0")), time.time()
    ending = asdict(Ending(rank=rank, status=status, text=text, bug=bug, time=now))
    said = {"message": text, "extraInfo": {"timestamp": str(int(now))}}  # as torchrun reads it
    Path(path).write_text(json.dumps({"message": said, "maya": ending}))


def end(reason: str) -> None:
    """Record why this process of a training ends."""
    record(1, f"maya train: {reason}", bug=False)


def note_doing(doing: dict[str, Any]) -> None:
    """Leave what this process does now, for the case that it is killed."""
    if path := os.environ.get(_ERROR_FILE):
        with suppress(OSError), replacing(Path(path).with_name(_DOING)) as partial:
            partial.write_text(json.dumps(doing))


def read_endings(folder: Path) -> list[Ending]:
    """What the processes of this launch wrote, in its last attempt."""
    endings = []
    for path in _of_last_attempt(folder, "error.json"):
        try:
            endings.append(Ending(**json.loads(path.read_text())["maya"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the process was ended while it wrote
    return endings


def read_doing(folder: Path) -> dict[int, str]:
    """What each rank of the last attempt did last, in words."""
    notes = [read_json(path) for path in _of_last_attempt(folder, _DOING)]
    return {note["rank"]: note["last"] for note in notes if note}


def _of_last_attempt(folder: Path, name: str) -> list[Path]:
    paths = sorted(folder.rglob(name))
    attempts = {path: _attempt(path) for path in paths}
    return [path for path in paths if attempts[path] == max(attempts.values())]


def _attempt(path: Path) -> int:
    """The number n of the folder attempt_n that a file lies in; 0 where there is none."""
    return next(
        (int(part[8:]) for part in path.parts if part.startswith("attempt_") and part[8:].isdigit()), 0
    )
