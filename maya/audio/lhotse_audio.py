"""Maya's decoding and resampling inside lhotse.

By itself lhotse tries several libraries in turn. The last of them starts ffmpeg, which opens playlists, other
files and networks. lhotse resamples with one of three libraries, and a source may be a command. Importing
this module replaces all of that in this process. `cut.load_audio()`, transforms, manifests on disk and Shar
work unchanged, and byte ranges inside tars are read in place. Every module of Maya that imports lhotse
imports this module, too.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lhotse.audio import AudioSource
from lhotse.audio.backend import AudioBackend, LibsndfileBackend, set_current_audio_backend
from lhotse.augmentation import Resample, Speed
from lhotse.serialization import CompositeIOBackend, IOBackend, get_current_io_backend, set_current_io_backend
from numpy.typing import NDArray

from maya.audio.byte_ranges import ByteRange, file_stamp, is_address, parse_address, read_range
from maya.audio.decoding import Source, decode, open_audio
from maya.audio.resampling import resample_channels
from maya.audio.stamps import Stamp
from maya.errors import MayaError


class AudioInfo(NamedTuple):
    """Facts about a file, for lhotse."""

    channels: int
    frames: int
    samplerate: int
    duration: float
    video: None = None


class MayaIOBackend(IOBackend):
    """Opens addresses of byte ranges for reading."""

    def open(self, identifier: Path | str, mode: str = "rb") -> io.BytesIO:
        if mode != "rb":
            raise ValueError(f"a byte range can only be read (mode 'rb'), not opened with mode {mode!r}")
        return io.BytesIO(read_range(*parse_address(str(identifier))))

    def handles_special_case(self, identifier: Path | str) -> bool:
        return is_address(str(identifier))

    def is_applicable(self, identifier: Path | str) -> bool:
        return self.handles_special_case(identifier)


class MayaAudioBackend(AudioBackend):
    """Decodes by maya.audio.decoding alone: paths, addresses of byte ranges, and open files."""

    def __init__(self) -> None:
        self._writer = LibsndfileBackend()

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[NDArray[np.float32], int]:
        """((C, N), sampling rate) from `offset` seconds for `duration` seconds, or to the end."""
        return decode(_source(path_or_fd), offset, duration)

    def info(self, path_or_fd: Any, force_opus_sampling_rate: int | None = None) -> AudioInfo:
        with open_audio(_source(path_or_fd), whole=False) as audio:
            seconds = audio.num_samples / audio.sample_rate
            return AudioInfo(audio.channels, audio.num_samples, audio.sample_rate, seconds)

    def is_applicable(self, path_or_fd: Any) -> bool:
        return True

    def supports_save(self) -> bool:
        return True

    def supports_info(self) -> bool:
        return True

    def save_audio(self, *args: Any, **options: Any) -> None:
        self._writer.save_audio(*args, **options)


def teach_lhotse() -> None:
    """Put Maya's decoding and resampling into lhotse, in this process; calling it again changes nothing.

    Raises MayaError for a lhotse that opens audio in another way: it would run commands unnoticed.
    """
    if not hasattr(AudioSource, "_prepare_for_reading"):
        raise MayaError(
            "this version of lhotse opens audio in a way that Maya does not know; install the version in "
            "constraints.txt"
        )
    current = get_current_io_backend()
    if not (isinstance(current, CompositeIOBackend) and isinstance(current.backends[0], MayaIOBackend)):
        set_current_io_backend(CompositeIOBackend([MayaIOBackend(), current]))
    set_current_audio_backend(MayaAudioBackend())
    AudioSource._prepare_for_reading = _prepare_for_reading
    Resample.__call__ = _resample
    Speed.__call__ = _change_speed


def byte_range_source(
    path: Path | str, offset: int, size: int, channels: list[int], stamp: Stamp | None = None
) -> AudioSource:
    """The lhotse source of an audio file that is `size` bytes from `offset` in `path`, a local path or
    `s3://bucket/key`. stamp: `file_stamp(path)`, with which the file is refused once it was replaced."""
    path = str(path) if str(path).startswith("s3://") else str(Path(path).resolve())
    # Type "file" and not "url": lhotse reads the latter whole before it looks for the cut.
    return AudioSource(type="file", channels=channels, source=ByteRange(path, offset, size, stamp).address)


def _source(path_or_fd: Any) -> Source:
    if isinstance(path_or_fd, str) and is_address(path_or_fd):
        return parse_address(path_or_fd)
    if isinstance(path_or_fd, (str, Path)):
        return str(path_or_fd)
    data: bytes = path_or_fd.read()
    return data


def _prepare_for_reading(self: AudioSource, offset: float, duration: float | None) -> Any:
    """Replaces lhotse's function, which runs commands and opens any address."""
    if self.type == "memory" and isinstance(self.source, bytes):
        return io.BytesIO(self.source)
    source = str(self.source)
    if self.type in ("file", "url") and is_address(source):
        return source
    if self.type == "url" and source.startswith("s3://"):
        stamp = file_stamp(source)
        return ByteRange(source, 0, stamp.size, stamp).address
    if self.type == "file" and "://" not in source:
        return source
    raise MayaError(
        f"audio of type {self.type!r} is not read ({source[:100]!r}): Maya runs no commands and opens no "
        "addresses but s3://; save it to files with lhotse's save_audios"
    )


def _resample(
    self: Resample, samples: NDArray[np.float32], *args: Any, **options: Any
) -> NDArray[np.float32]:
    return resample_channels(samples, self.source_sampling_rate, self.target_sampling_rate)


def _change_speed(self: Speed, samples: NDArray[np.float32], sampling_rate: int) -> NDArray[np.float32]:
    return resample_channels(samples, round(sampling_rate * self.factor), sampling_rate)


teach_lhotse()
