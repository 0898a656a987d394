"""Audio that lies inside tar files, read in place.

A recording in a tar is an ordinary lhotse `AudioSource` whose source is the address of a byte range (see
maya.data.byte_ranges), on a disk or in object storage. `use_byte_ranges()` teaches lhotse to open such
addresses, so `cut.load_audio()`, transforms, saving to `jsonl.gz` and lazy reading with `CutSet.from_file`
all work unchanged, and only the member's bytes are read; of a long WAV or FLAC, only those of the cut.
Importing `maya.data.audio` calls it.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse.audio import AudioSource
from lhotse.audio.backend import AudioBackend, get_current_audio_backend, set_current_audio_backend
from lhotse.serialization import CompositeIOBackend, IOBackend, get_current_io_backend, set_current_io_backend
from lhotse.utils import compute_num_samples
from numpy.typing import NDArray

from maya.data.byte_ranges import (
    ByteRange,
    RangeFile,
    Stamp,
    file_stamp,
    is_address,
    parse_address,
    read_range,
    store_of,
)
from maya.data.tar_index import TarMember, TarScan, index_tar, member_header, scan_tar
from maya.errors import MayaError

__all__ = [
    "ByteRange", "Stamp", "TarMember", "TarScan", "byte_range_source", "decode", "file_stamp", "index_tar",
    "member_header", "open_range", "parse_address", "read_range", "read_samples", "read_segment",
    "scan_tar", "use_byte_ranges",
]  # fmt: skip

# Kinds in which a place can be found without decoding what lies before it, by their first bytes.
_SEEKABLE = (b"RIFF", b"RF64", b"fLaC")
# Bytes; more is read in parts, or refused where it cannot be: no utterance has it.
_LARGEST_IN_MEMORY = 1 << 28
_SAMPLES_AT_ONCE = 1 << 23  # 32 MB of float32: more is decoded piece by piece, as much as there is


class ByteRangeIOBackend(IOBackend):
    """Opens addresses of byte ranges for reading."""

    def open(self, identifier: Path | str, mode: str = "rb") -> io.BytesIO:
        if mode != "rb":
            raise ValueError(f"a byte range can only be read (mode 'rb'), not opened with mode {mode!r}")
        return io.BytesIO(read_range(*parse_address(str(identifier))))

    def handles_special_case(self, identifier: Path | str) -> bool:
        return is_address(str(identifier))

    def is_applicable(self, identifier: Path | str) -> bool:
        return self.handles_special_case(identifier)


class ByteRangeAudioBackend(AudioBackend):
    """Decodes addresses of byte ranges, and leaves everything else to the backend that was there before."""

    def __init__(self, other: AudioBackend | None = None) -> None:
        self.other = other or get_current_audio_backend()

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[NDArray[np.float32], int]:
        if isinstance(path_or_fd, str) and is_address(path_or_fd):
            return decode(parse_address(path_or_fd), offset, duration)
        return self.other.read_audio(path_or_fd, offset, duration, force_opus_sampling_rate)

    def info(self, path_or_fd: Any, force_opus_sampling_rate: int | None = None) -> Any:
        if isinstance(path_or_fd, str) and is_address(path_or_fd):
            path_or_fd = open_range(parse_address(path_or_fd))
        return self.other.info(path_or_fd, force_opus_sampling_rate)

    def handles_special_case(self, path_or_fd: Any) -> bool:
        return self.other.handles_special_case(path_or_fd)

    def is_applicable(self, path_or_fd: Any) -> bool:
        return True

    def supports_save(self) -> bool:
        return self.other.supports_save()

    def supports_info(self) -> bool:
        return self.other.supports_info()

    def save_audio(self, *args: Any, **options: Any) -> None:
        self.other.save_audio(*args, **options)


def use_byte_ranges() -> None:
    """Teach lhotse, in this process, to open byte ranges; calling it again changes nothing."""
    current = get_current_io_backend()
    if not (isinstance(current, CompositeIOBackend) and isinstance(current.backends[0], ByteRangeIOBackend)):
        set_current_io_backend(CompositeIOBackend([ByteRangeIOBackend(), current]))
    if not isinstance(get_current_audio_backend(), ByteRangeAudioBackend):
        set_current_audio_backend(ByteRangeAudioBackend())


def byte_range_source(
    path: Path | str, offset: int, size: int, channels: list[int], stamp: Stamp | None = None
) -> AudioSource:
    """The lhotse source of an audio file that is `size` bytes from `offset` in `path`, a local path or
    `s3://bucket/key`. stamp: `file_stamp(path)`, with which the file is refused once it was replaced."""
    path = str(path) if str(path).startswith("s3://") else str(Path(path).resolve())
    # Type "file" and not "url": lhotse reads the latter whole before it looks for the cut.
    return AudioSource(type="file", channels=channels, source=ByteRange(path, offset, size, stamp).address)


def open_range(where: ByteRange) -> io.BytesIO | io.BufferedReader:
    """A range as a file: what is small, or cannot be searched, in memory; other audio to be read in parts."""
    block = store_of(where.path).block
    if where.size > 2 * block:
        head = read_range(where.path, where.offset, len(_SEEKABLE[0]), where.stamp)
        if head in _SEEKABLE:
            return io.BufferedReader(RangeFile(where), block)
        if where.size > _LARGEST_IN_MEMORY:
            raise MayaError(
                f"the {where.size} bytes from {where.offset} of {where.path} are too many for audio"
            )
    return io.BytesIO(read_range(*where))


def decode(
    where: ByteRange, offset: float = 0.0, duration: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """((C, N) samples in [-1, 1], sampling rate) of a range, from `offset` seconds for `duration` seconds or
    to its end. Raises MayaError, naming file and position, when it cannot be read or decoded."""
    with _opened(where, whole=offset == 0 and duration is None) as opened:
        rate = opened.samplerate
        begin = min(compute_num_samples(offset, rate), opened.frames) if offset else 0
        if begin:  # to look for its beginning, FLAC would decode a block
            opened.seek(begin)
        left = opened.frames - begin
        wanted = left if duration is None else min(left, compute_num_samples(duration, rate))
        return read_samples(opened, wanted).T, rate


def read_segment(where: ByteRange, seconds: float, place: float) -> tuple[NDArray[np.float32], int]:
    """((C, N), sampling rate): `seconds` of a recording from `place`, 0 to 1 of where they can begin; all of
    a shorter one. Errors are those of `decode`."""
    with _opened(where, whole=False) as opened:
        wanted = min(opened.frames, compute_num_samples(seconds, opened.samplerate) + 1)
        opened.seek(int(place * (opened.frames - wanted)))
        return read_samples(opened, wanted).T, opened.samplerate


@contextmanager
def _opened(where: ByteRange, whole: bool) -> Iterator[soundfile.SoundFile]:
    """A range open for decoding; whole: all of it will be. Errors become MayaError, naming the place."""
    if where.size == 0:
        raise MayaError(f"the member at byte {where.offset} of {where.path} has no bytes")
    in_memory = whole and where.size <= _LARGEST_IN_MEMORY
    file = io.BytesIO(read_range(*where)) if in_memory else open_range(where)
    try:
        with soundfile.SoundFile(file) as opened:
            yield opened
    except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError, MemoryError) as error:
        failure = getattr(getattr(file, "raw", None), "failure", None)
        if failure is not None:
            raise failure from None
        raise MayaError(
            f"cannot decode the {where.size} bytes from {where.offset} of {where.path}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None


def read_samples(opened: soundfile.SoundFile, frames: int) -> NDArray[np.float32]:
    """(N, C): at most `frames` samples from where the file stands.

    A header may claim any number: no memory is taken on its word."""
    at_once = max(1, _SAMPLES_AT_ONCE // opened.channels)
    parts = []
    while frames > 0:
        part = opened.read(min(frames, at_once), dtype="float32", always_2d=True)
        parts.append(part)
        frames -= len(part)
        if len(part) < min(frames + len(part), at_once):
            break
    if not parts:
        return np.zeros((0, opened.channels), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
