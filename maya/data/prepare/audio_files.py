"""The audio files of a corpus with size and time of change, by which a changed recording is noticed.

Preparing writes the list beside its tables. Whether the audio is still the same then costs a look at each
file's directory entry, and no byte of audio is read.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maya.data.corpus.manifest import Row
from maya.data.measure.probe import audio_path, look
from maya.data.prepare.columns import MEMORY, Scratch, first_rows, is_first, keys

NAME = "audio_files.arrow"
_ABSENT = -1
_THREADS = 16  # network storage answers many questions as fast as one
_FILES_PER_TASK = 512
_BATCH = 1 << 18  # files in memory at a time
_DAMAGED = (pa.ArrowException, OSError, KeyError, ValueError, AttributeError)
_SCHEMA = pa.schema([("path", pa.binary()), ("size", pa.int64()), ("mtime_ns", pa.int64())])


class AudioFiles:
    """Files, each once. lots: gives their absolute paths, some at a time, whenever it is called; stamps:
    (n, 2) int64 of size in bytes and time of change in ns since 1970, -1 for a file that does not exist."""

    def __init__(self, lots: Callable[[], Iterable[list[str]]], stamps: NDArray[np.int64]) -> None:
        self.lots, self.stamps = lots, stamps

    @property
    def paths(self) -> list[str]:
        """All paths."""
        return [path for lot in self.lots() for path in lot]

    def digest(self) -> str:
        """A short hash of all paths and stamps."""
        return _digest(self.lots(), [self.stamps])

    def now(self) -> "AudioFiles":
        """The same files as they are at this moment."""
        return AudioFiles(self.lots, np.concatenate([_stamps([]), *map(_stamps, self.lots())]))

    def changed(self, now: "AudioFiles") -> list[str]:
        """The paths whose size or time differs in `now`, which lists the same files."""
        different = (self.stamps != now.stamps).any(axis=1)
        every = (path for lot in self.lots() for path in lot)
        return [path for path, differs in zip(every, different, strict=True) if differs]

    def write(self, path: Path) -> None:
        """Write the list. Raises OSError when the disk is full."""
        begin = 0
        with _writing(path) as writer:
            for lot in self.lots():
                _write(writer, lot, self.stamps[begin : begin + len(lot)])
                begin += len(lot)


def of_rows(folder: Path, rows: Iterable[Row]) -> AudioFiles:
    """The files that the rows of a corpus point at, as they are now."""
    return of_paths(audio_path(folder, row) for row in rows)


def of_paths(paths: Iterable[str]) -> AudioFiles:
    """These files as they are now, each once, in the order in which they first occur."""
    unique = list(dict.fromkeys(paths))
    return AudioFiles(lambda: [unique], _stamps(unique))


def read(path: Path) -> AudioFiles | None:
    """The list that `AudioFiles.write` wrote; None where there is none, or it is damaged."""
    try:
        parts = [stamps for _, stamps in _batches(path)]
    except _DAMAGED:
        return None
    stamps = np.concatenate([np.zeros((0, 2), np.int64), *parts])
    return AudioFiles(lambda: (names for names, _ in _batches(path)), stamps)


def digest_of(path: Path) -> str:
    """The digest of the list in a file, "" where it cannot be read; some files are in memory at a time."""
    try:
        return _digest((names for names, _ in _batches(path)), (stamps for _, stamps in _batches(path)))
    except _DAMAGED:
        return ""


def _digest(names: Iterable[list[str]], stamps: Iterable[NDArray[np.int64]]) -> str:
    digest = hashlib.sha256()
    for number, lot in enumerate(names):
        digest.update((("\0" if number else "") + "\0".join(lot)).encode("utf-8", "surrogateescape"))
    for some in stamps:
        digest.update(np.ascontiguousarray(some).tobytes())
    return digest.hexdigest()[:16]


def join(sources: Sequence[Path], path: Path, scratch: Scratch = MEMORY) -> None:
    """Write the files of several lists as one, each once: with the stamps of the first list that has it."""
    count = sum(len(names) for source in sources for names, _ in _batches(source))
    parts = (keys(names) for source in sources for names, _ in _batches(source))
    wanted = is_first(first_rows(scratch.joined(parts, count, np.uint64), scratch))
    begin, written, names, stamps = 0, 0, list[str](), _stamps([])
    with _writing(path) as writer:
        for some, some_stamps in (batch for source in sources for batch in _batches(source)):
            chosen = wanted[begin : begin + len(some)]
            begin += len(some)
            names += itertools.compress(some, chosen)
            stamps = np.concatenate([stamps, some_stamps[chosen]])
            while len(names) > _BATCH:
                _write(writer, names[:_BATCH], stamps[:_BATCH])
                names, stamps, written = names[_BATCH:], stamps[_BATCH:], written + 1
        if names or not written:
            _write(writer, names, stamps)


@contextmanager
def _writing(path: Path) -> Iterator[pa.RecordBatchFileWriter]:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA, options=options) as writer:
        yield writer


def _write(writer: pa.RecordBatchFileWriter, paths: Sequence[str], stamps: NDArray[np.int64]) -> None:
    names = pa.array([name.encode("utf-8", "surrogateescape") for name in paths], pa.binary())
    columns = [names, pa.array(stamps[:, 0]), pa.array(stamps[:, 1])]
    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))


def _batches(path: Path) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """(paths, stamps), some at a time, of a file that `AudioFiles.write` or `join` wrote."""
    with pa.OSFile(str(path), "rb") as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            names = [name.decode("utf-8", "surrogateescape") for name in batch.column("path").to_pylist()]
            stamps = np.stack([batch.column(name).to_numpy() for name in ("size", "mtime_ns")], axis=1)
            yield names, stamps.astype(np.int64)


def _stamps(paths: Sequence[str]) -> NDArray[np.int64]:
    """(n, 2) size and mtime_ns of each path."""
    parts = [paths[i : i + _FILES_PER_TASK] for i in range(0, len(paths), _FILES_PER_TASK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        rows = list(pool.map(_look, parts))
    return np.concatenate([np.zeros((0, 2), np.int64), *rows])


def _look(paths: Sequence[str]) -> NDArray[np.int64]:
    rows = np.full((len(paths), 2), _ABSENT, np.int64)
    for number, path in enumerate(paths):
        if (status := look(path)) is not None:
            rows[number] = status
    return rows
