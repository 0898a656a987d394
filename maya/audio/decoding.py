"""Decoding of audio files. Only this module determines the length of a recording.

libsndfile decodes; PyAV, an extra, decodes what it does not (mp4, webm). The length
of a file comes from its own bytes (maya.audio.containers): a recording is read whole, or refused with the
reason. No program is started, and no other file is opened.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from maya.audio.byte_ranges import ByteRange, RangeFile, read_range, store_of
from maya.audio.containers import DamagedAudio, Reader, Segment, layout, media_format
from maya.audio.containers.media import media_frames, read_media
from maya.errors import MayaError

# Kinds in which a place can be found without decoding what lies before it, by their first bytes.
_SEEKABLE = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"fLaC", b"FORM", b"riff", b"caff", b".snd", b"NIST")
# Bytes; more is read in parts, or refused where it cannot be: no utterance has it.
_LARGEST_IN_MEMORY = 1 << 28
_SAMPLES_AT_ONCE = 1 << 23  # 32 MB of float32: more is decoded piece by piece, as much as there is
_MP3 = "MP3"  # libsndfile's name of MPEG audio of all layers
# Samples. A frame may lie in the 511 bytes before it: up to 85 frames at the lowest bit rate.
_MP3_LEAD = 100 * 1152
_RATES = (1000, 768_000)  # Hz; outside of these a header is damaged
_FAILURES = (soundfile.LibsndfileError, RuntimeError, OSError, ValueError, MemoryError)

Source = Path | str | bytes | ByteRange | BinaryIO


class _SoundFile(soundfile.SoundFile):
    """A file of libsndfile, to be read. After each read soundfile seeks to where it is; an MP3 decoder then
    forgets what earlier frames hold of later ones, and gives other samples."""

    def seekable(self) -> bool:
        return self.format != _MP3 and bool(super().seekable())


class AudioFile:
    """A recording open to be read once. sample_rate: Hz. num_samples: of each channel, in all of it."""

    def __init__(
        self,
        name: str,
        parts: list[soundfile.SoundFile],
        samples: NDArray[np.float32] | None = None,
        sample_rate: int = 0,
    ) -> None:
        self.name, self._parts, self._samples = name, parts, samples
        if samples is not None:
            self.sample_rate, self.channels, self._lengths = sample_rate, samples.shape[1], [len(samples)]
        else:
            self.sample_rate, self.channels = parts[0].samplerate, parts[0].channels
            self._lengths = [part.frames for part in parts]
        self.num_samples = sum(self._lengths)

    def read(self, begin: int = 0, count: int | None = None) -> NDArray[np.float32]:
        """(N, C) in [-1, 1]: `count` samples from `begin`, or all from there. To be called once.

        Raises MayaError where fewer decode than that, and where they are not finite numbers."""
        count = self.num_samples - begin if count is None else min(count, self.num_samples - begin)
        if self._samples is not None:
            samples = self._samples[begin : begin + count]
        else:
            pieces, first = [], 0
            for part, length in zip(self._parts, self._lengths, strict=True):
                start, stop = max(begin - first, 0), min(begin + count - first, length)
                if start < stop:
                    pieces.append(self._read_part(part, start, stop - start))
                first += length
            samples = (
                pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces
                else np.zeros((0, self.channels), np.float32)
            )  # fmt: skip
        return _finite(samples, self.name)

    def blocks(self, count: int) -> Iterator[NDArray[np.float32]]:
        """(n, C) in [-1, 1]: the whole recording in blocks of at most `count` samples, instead of `read`.
        Errors are those of `read`."""
        if self._samples is not None:
            for begin in range(0, self.num_samples, count):
                yield self._samples[begin : begin + count]
            return
        for part, length in zip(self._parts, self._lengths, strict=True):
            for begin in range(0, length, count):
                yield _finite(self._read_part(part, 0, min(count, length - begin)), self.name)

    def _read_part(self, part: soundfile.SoundFile, begin: int, count: int) -> NDArray[np.float32]:
        try:
            # To look for its beginning, FLAC would decode a block; GSM cannot be searched, not even for that.
            if begin and part.format == _MP3:
                lead = min(begin, _MP3_LEAD)
                part.seek(begin - lead)
                read_samples(part, lead)
            elif begin and part.seekable():
                part.seek(begin)
            elif begin:
                read_samples(part, begin)
            samples = read_samples(part, count)
        except _FAILURES as error:
            raise MayaError(
                f"cannot decode {self.name} as audio: it is truncated or damaged ({first_line(error)})"
            ) from None
        if len(samples) < count:
            raise MayaError(f"{self.name} is truncated or damaged: {len(samples)} of {count} samples decode")
        return samples


@contextmanager
def open_audio(source: Source, name: str | None = None, *, whole: bool = True) -> Iterator[AudioFile]:
    """A recording open for decoding: a path, the bytes of a file, a range, or an open binary file.

    name: what messages call it. whole: whether all of it will be read; of a large WAV or FLAC otherwise only
    the parts that are asked for. Raises MayaError, naming it, where it is missing, cut off or no audio.
    """
    name = name or name_of(source)
    file = _opened(source, name, whole)
    with ExitStack() as stack:
        try:
            audio = _audio_file(Reader(file), name, stack)
        except DamagedAudio as error:
            raise _failure_of(file) or MayaError(f"cannot decode {name} as audio: it {error}") from None
        except _FAILURES as error:
            reason = first_line(error)
            raise _failure_of(file) or MayaError(f"cannot decode {name} as audio: {reason}") from None
        try:
            yield audio
        except MayaError as error:
            raise _failure_of(file) or error from None


def sample_blocks(source: Source, seconds: float) -> Iterator[tuple[NDArray[np.float32], int]]:
    """((n, C) samples in [-1, 1], sampling rate) of a recording, in blocks of about `seconds`.

    No more than a block is in memory, compressed audio in object storage aside. Errors are those of
    `open_audio` and of `AudioFile.read`; one in the middle is raised when its block is decoded.
    """
    name = name_of(source)
    file = _opened(source, name, whole=False)
    format = media_format(Reader(file).at(0, 64))
    if format is not None:
        try:
            yield from _media_blocks(Reader(file), format, seconds, name)
        except DamagedAudio as error:
            raise _failure_of(file) or MayaError(f"cannot decode {name} as audio: it {error}") from None
        return
    with open_audio(file, name, whole=False) as audio:  # the same file: a small one was read to its end
        for samples in audio.blocks(max(1, int(seconds * audio.sample_rate))):
            yield samples, audio.sample_rate


def _media_blocks(
    reader: Reader, format: str, seconds: float, name: str
) -> Iterator[tuple[NDArray[np.float32], int]]:
    parts: list[NDArray[np.float32]] = []
    count = rate = 0
    for part, rate in media_frames(reader, format):
        parts.append(part)
        count += len(part)
        if count >= seconds * rate:
            yield _finite(np.concatenate(parts), name), rate
            parts, count = [], 0
    if parts:
        yield _finite(np.concatenate(parts), name), rate


def _finite(samples: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """The samples. Raises MayaError where they are not finite numbers."""
    flat = samples.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(flat, flat)  # needs no memory; may also overflow
    if not np.isfinite(squares) and not np.isfinite(flat).all():
        raise MayaError(f"{name} holds samples that are not finite numbers (NaN or infinity); write it anew")
    return samples


def _failure_of(file: BinaryIO) -> MayaError | None:
    """The error of reading a range; decoders written in C swallow it."""
    failure: MayaError | None = getattr(getattr(file, "raw", None), "failure", None)
    return failure


def samples_in(seconds: float, sample_rate: int) -> int:
    """The number of samples in so many seconds, halves rounded up: as lhotse's compute_num_samples, by which
    cuts count."""
    samples = Decimal(round(seconds * sample_rate, ndigits=8))
    return int(samples.quantize(Decimal(0), rounding=ROUND_HALF_UP))


def decode(
    source: Source, offset: float = 0.0, duration: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """((C, N) samples in [-1, 1], sampling rate) of a recording, from `offset` seconds for `duration` seconds
    or to its end. Raises MayaError, naming it, when it cannot be read or decoded."""
    with open_audio(source, whole=offset == 0 and duration is None) as audio:
        rate = audio.sample_rate
        begin = min(samples_in(offset, rate), audio.num_samples) if offset else 0
        remaining = audio.num_samples - begin
        count = remaining if duration is None else min(remaining, samples_in(duration, rate))
        return np.ascontiguousarray(audio.read(begin, count).T), rate


def read_segment(where: ByteRange, seconds: float, place: float) -> tuple[NDArray[np.float32], int]:
    """((C, N), sampling rate): `seconds` of a recording from `place`, 0 to 1 of where they can begin; all of
    a shorter one. Errors are those of `decode`."""
    with open_audio(where, whole=False) as audio:
        count = min(audio.num_samples, samples_in(seconds, audio.sample_rate) + 1)
        begin = int(place * (audio.num_samples - count))
        return np.ascontiguousarray(audio.read(begin, count).T), audio.sample_rate


def _audio_file(reader: Reader, name: str, stack: ExitStack) -> AudioFile:
    if (format := media_format(reader.at(0, 64))) is not None:
        samples, rate = read_media(reader, format)
        check_rate(rate)
        return AudioFile(name, [], samples, rate)
    segments = layout(reader)
    parts = [stack.enter_context(_SoundFile(segment.open(reader))) for segment in segments]
    check_rate(parts[0].samplerate)
    for part, segment in zip(parts, segments, strict=True):
        _check_part(part, segment, parts[0])
    return AudioFile(name, parts)


def _check_part(part: soundfile.SoundFile, segment: Segment, first: soundfile.SoundFile) -> None:
    if part.frames < segment.least_samples:
        raise DamagedAudio(
            f"cannot be read whole: {part.frames} of {segment.least_samples} samples; convert it to WAV"
        )
    if (part.samplerate, part.channels) != (first.samplerate, first.channels):
        raise DamagedAudio(
            f"is several recordings joined, the first of {first.channels} channels at {first.samplerate} Hz, "
            f"another of {part.channels} at {part.samplerate} Hz; write each to a file of its own"
        )


def _opened(source: Source, name: str, whole: bool) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, ByteRange):
        return _open_range(source, whole)
    if isinstance(source, (str, Path)):
        path = str(source)
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            raise MayaError(f"there is no audio file {name}") from None
        if not stat.S_ISREG(status.st_mode):
            raise MayaError(f"{name} is not a file")
        return _open_range(ByteRange(path, 0, status.st_size), whole)
    return source


def _open_range(where: ByteRange, whole: bool) -> BinaryIO:
    """A range as a file: what is small, or cannot be searched where it is, in memory; other audio to be read
    in parts. A file on a disk can always be searched."""
    block = store_of(where.path).block
    if where.size > (_LARGEST_IN_MEMORY if whole else 2 * block):
        head = read_range(where.path, where.offset, block, where.stamp)
        if head.startswith(_SEEKABLE) or not (whole or where.path.startswith("s3://")):
            return io.BufferedReader(RangeFile(where, head), block)
        if where.size > _LARGEST_IN_MEMORY:
            raise MayaError(
                f"{name_of(where)}: {where.size} bytes are too many for this format; convert it to FLAC"
            )
    return io.BytesIO(read_range(*where))


def name_of(source: Source) -> str:
    """The name of a source in messages."""
    if isinstance(source, ByteRange):
        if source.offset == 0 and source.stamp is None:
            return source.path
        return f"the {source.size} bytes from {source.offset} of {source.path}"
    return str(source) if isinstance(source, (str, Path)) else "these bytes"


def read_samples(opened: soundfile.SoundFile, count: int) -> NDArray[np.float32]:
    """(N, C): at most `count` samples from where the file stands.

    A header may claim any number: no memory is taken on its word."""
    at_once = max(1, _SAMPLES_AT_ONCE // opened.channels)
    parts = []
    while count > 0:
        part = opened.read(min(count, at_once), dtype="float32", always_2d=True)
        parts.append(part)
        count -= len(part)
        if len(part) < min(count + len(part), at_once):
            break
    if not parts:
        return np.zeros((0, opened.channels), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_rate(rate: int, new_rate: int | None = None) -> None:
    """ValueError for a sampling rate that no recorder uses: such a header is damaged."""
    if not _RATES[0] <= rate <= _RATES[1]:
        to = f" to {new_rate} Hz" if new_rate else ""
        raise ValueError(f"its sampling rate is {rate} Hz; it cannot be resampled{to}")


def first_line(error: BaseException) -> str:
    """The first line of an error, without what libraries add to it."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else type(error).__name__
    # libsndfile names the Python object that it read from.
    return text.partition(">: ")[2] if text.startswith("Error opening <") and ">: " in text else text
