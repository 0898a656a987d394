"""The audio files of a corpus with size and time of change, by which a changed recording is noticed.

Preparing writes the list beside its tables. Whether the audio is still the same then costs a look at each
file's directory entry, and no byte of audio is read.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maya.data.corpus.manifest import Row
from maya.files import sha256

NAME = "audio_files.arrow"
_ABSENT = -1
_THREADS = 16  # network storage answers many questions as fast as one
_FILES_PER_TASK = 512
_SCHEMA = pa.schema([("path", pa.binary()), ("size", pa.int64()), ("mtime_ns", pa.int64())])


@dataclass(frozen=True, slots=True)
class AudioFiles:
    """paths: absolute, each once; stamps: (n, 2) int64 of size in bytes and time of change in ns since 1970,
    -1 for a file that does not exist."""

    paths: Sequence[str]
    stamps: NDArray[np.int64]

    def digest(self) -> str:
        """A short hash of all paths and stamps."""
        names = "\0".join(self.paths).encode("utf-8", "surrogateescape")
        return sha256(names + np.ascontiguousarray(self.stamps).tobytes())[:16]

    def now(self) -> "AudioFiles":
        """The same files as they are at this moment."""
        return AudioFiles(self.paths, _stamps(self.paths))

    def changed(self, now: "AudioFiles") -> list[str]:
        """The paths whose size or time differs in `now`, which lists the same files."""
        rows = np.flatnonzero((self.stamps != now.stamps).any(axis=1))
        return [self.paths[row] for row in rows.tolist()]

    def write(self, path: Path) -> None:
        """Write the list. Raises OSError when the disk is full."""
        names = pa.array([name.encode("utf-8", "surrogateescape") for name in self.paths], pa.binary())
        columns = [names, pa.array(self.stamps[:, 0]), pa.array(self.stamps[:, 1])]
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA, options=options) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))


def of_rows(folder: Path, rows: Iterable[Row]) -> AudioFiles:
    """The files that the rows of a corpus point at, as they are now."""
    return of_paths(os.path.abspath(folder / (row.tar or row.audio)) for row in rows)


def of_paths(paths: Iterable[str]) -> AudioFiles:
    """These files as they are now, each once, in the order in which they first occur."""
    unique = list(dict.fromkeys(paths))
    return AudioFiles(unique, _stamps(unique))


def read(path: Path) -> AudioFiles | None:
    """The list that `AudioFiles.write` wrote; None where there is none, or it is damaged."""
    try:
        with pa.OSFile(str(path), "rb") as file:
            table = pa.ipc.open_file(file).read_all()
        names = [name.decode("utf-8", "surrogateescape") for name in table.column("path").to_pylist()]
        stamps = np.stack([table.column(name).to_numpy() for name in ("size", "mtime_ns")], axis=1)
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        return None
    return AudioFiles(names, stamps.astype(np.int64))


def _stamps(paths: Sequence[str]) -> NDArray[np.int64]:
    """(n, 2) size and mtime_ns of each path."""
    parts = [paths[i : i + _FILES_PER_TASK] for i in range(0, len(paths), _FILES_PER_TASK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        rows = list(pool.map(_look, parts))
    return np.concatenate([np.zeros((0, 2), np.int64), *rows])


def _look(paths: Sequence[str]) -> NDArray[np.int64]:
    rows = np.full((len(paths), 2), _ABSENT, np.int64)
    for number, path in enumerate(paths):
        try:
            entry = os.stat(path)
        except (OSError, ValueError):
            continue
        rows[number] = entry.st_size, entry.st_mtime_ns
    return rows
