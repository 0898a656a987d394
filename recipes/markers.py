"""Stage markers: a finished stage leaves a hash of its inputs, so a changed input runs it again and an
unchanged one does not.

Inputs are options, and files by their bytes, by the digest of their rows, or by size and time of change. The
version of Maya is one of them for every stage.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from maya import __version__
from maya.data.prepare import audio_files
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.files import file_sha256, json_sha256, write_json


def digest(inputs: dict[str, Any]) -> str:
    """A short hash of JSON-able inputs, independent of key order."""
    return json_sha256(inputs)[:16]


def is_done(marker: Path, inputs: dict[str, Any]) -> bool:
    """Whether the stage that writes `marker` finished with these very inputs, in this version of Maya."""
    try:
        return json.loads(marker.read_text())["digest"] == _with_version(inputs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def mark_done(marker: Path, inputs: dict[str, Any]) -> None:
    """Note that the stage finished with these inputs."""
    write_json(marker, {"digest": _with_version(inputs), "version": __version__, "inputs": inputs})


def earlier_inputs(marker: Path) -> dict[str, Any]:
    """The inputs with which a stage last finished; nothing where it did not."""
    try:
        inputs = json.loads(marker.read_text())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return inputs if isinstance(inputs, dict) else {}


def _with_version(inputs: dict[str, Any]) -> str:
    return digest({"maya": __version__, "inputs": inputs})


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
        return file_sha256(path)[:16]
    except OSError:
        return "absent"


def checkpoint_content(path: Path) -> str:
    """A checkpoint's identity by its bytes, which are read once by a process that asks several times."""
    return _content_of(path, stamp(path))


@lru_cache(maxsize=16)
def _content_of(path: Path, _: str) -> str:
    return content(path)


def table_identity(data: Path, part: str) -> str:
    """The rows of a prepared part; "absent" where the table is missing or cannot be read."""
    try:
        return Table.open(part_path(data, part)).digest
    except MayaError:
        return "absent"


def texts_identity(data: Path, part: str) -> str:
    """The languages and texts of a prepared part; "absent" where there is no table."""
    try:
        return Table.open(part_path(data, part)).texts_digest
    except MayaError:
        return "absent"


def audio_identity(data: Path, part: str) -> str:
    """Sizes and times of the audio files of a prepared part, as they are now."""
    try:
        paths = Table.open(part_path(data, part)).codes("path")[1]
    except MayaError:
        return "absent"
    return audio_files.of_paths(paths).digest()
