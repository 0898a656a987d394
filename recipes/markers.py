"""Stage markers: a finished stage leaves a hash of its inputs, so a changed option runs it again and an
unchanged one does not."""

import hashlib
import json
from pathlib import Path
from typing import Any

from maya.train.runlog import write_json


def digest(inputs: dict[str, Any]) -> str:
    """A short hash of JSON-able inputs, independent of key order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def is_done(marker: Path, inputs: dict[str, Any]) -> bool:
    """Whether the stage that writes `marker` finished with these very inputs."""
    try:
        return json.loads(marker.read_text())["digest"] == digest(inputs)
    except (OSError, json.JSONDecodeError, KeyError):
        return False


def mark_done(marker: Path, inputs: dict[str, Any]) -> None:
    write_json(marker, {"digest": digest(inputs), "inputs": inputs})


def stamp(path: Path) -> str:
    """A file's identity for use in `inputs`: size and time of change, cheap for large files."""
    try:
        stat = path.stat()
    except OSError:
        return "absent"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def content(path: Path) -> str:
    """A file's identity by its bytes."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "absent"
