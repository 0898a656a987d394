"""Audio from a pipe in pieces as it comes: raw samples, or WAV of a length that is not known yet."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from maya.audio.resampling import ResamplingStream
from maya.errors import MayaError

_DTYPES = {"s16le": "<i2", "f32le": "<f4"}
RAW_KINDS = tuple(_DTYPES)
_PIECE_SECONDS = 0.1
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # format tags of WAV


class CompressedWAV(MayaError):
    """A WAV whose samples are not as they are in memory; the reader of files may know them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PCMFormat:
    """Samples without compression. dtype: of numpy, or "<i3". rate: Hz. channels: side by side in a frame."""

    dtype: str
    rate: int
    channels: int = 1

    @classmethod
    def raw(cls, kind: str, rate: int) -> "PCMFormat":
        """One of `RAW_KINDS` with one channel."""
        return cls(dtype=_DTYPES[kind], rate=rate)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a sample of every channel."""
        return int(self.dtype[-1]) * self.channels


def read_pcm(source: IO[bytes], raw: PCMFormat | None, sample_rate: int) -> NDArray[np.float32] | bytes:
    """All of a pipe: samples (N,) at `sample_rate`, or the bytes of a file in another format than WAV."""
    if raw is None:
        data = source.read()
        if not data:
            raise MayaError("the standard input is empty; pipe audio into it, or name a file")
        if data[:4] not in (b"RIFF", b"RF64"):
            return data
        source = io.BytesIO(data)
        source.seek(4)
        try:
            raw = read_wav_header(source)
        except CompressedWAV:
            return data
    pieces = list(pcm_pieces(source, raw, sample_rate))
    if not pieces:
        raise MayaError("the standard input holds no audio samples")
    return np.concatenate(pieces)


def pcm_pieces(source: IO[bytes], pcm: PCMFormat, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """Samples (n,) at `sample_rate` as they come, channels averaged."""
    resampling = ResamplingStream(pcm.rate, sample_rate)
    size = max(1, int(_PIECE_SECONDS * pcm.rate)) * pcm.frame_bytes
    rest = b""
    read = getattr(source, "read1", source.read)  # what is there, without waiting for all of it
    while data := read(size):
        data = rest + data
        whole = len(data) - len(data) % pcm.frame_bytes
        rest = data[whole:]
        if whole and len(samples := resampling.push(_as_float(data[:whole], pcm))):
            yield samples
    if len(last := resampling.finish()):
        yield last


def read_wav_header(source: IO[bytes]) -> PCMFormat:
    """The format of a WAV, of which the first four bytes were read already; leaves `source` at the samples.

    The length in the header is not used: a program that writes into a pipe does not know it. Raises MayaError
    for a WAV that is cut off, and for compressed ones.
    """
    _exactly(source, 8)  # its length, and "WAVE"
    pcm: PCMFormat | None = None
    while True:
        name, size = struct.unpack("<4sI", _exactly(source, 8))
        if name == b"data":
            break
        chunk = _exactly(source, size + size % 2)
        if name == b"fmt ":
            pcm = _wav_format(chunk)
    if pcm is None:
        raise MayaError("the WAV on the standard input names no format")
    return pcm


def _wav_format(chunk: bytes) -> PCMFormat:
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)
    dtypes = {
        (_PCM, 8): "u1",
        (_PCM, 16): "<i2",
        (_PCM, 24): "<i3",
        (_PCM, 32): "<i4",
        (_FLOAT, 32): "<f4",
        (_FLOAT, 64): "<f8",
    }
    if (tag, bits) not in dtypes or not channels or not 1000 <= rate <= 768_000:
        raise CompressedWAV(
            f"the WAV on the standard input has format {tag} with {bits} bits at {rate} Hz; write 16 bits, "
            "for example with ffmpeg -f wav -acodec pcm_s16le -"
        )
    return PCMFormat(dtype=dtypes[tag, bits], rate=rate, channels=channels)


def _as_float(data: bytes, pcm: PCMFormat) -> NDArray[np.float32]:
    if pcm.dtype == "<i3":  # numpy has no such numbers: the low byte of wider ones is 0
        data = np.pad(np.frombuffer(data, "u1").reshape(-1, 3), ((0, 0), (1, 0))).tobytes()
    dtype = pcm.dtype.replace("i3", "i4")
    samples = np.frombuffer(data, dtype).reshape(-1, pcm.channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32).mean(axis=1)
    zero, full_scale = (128, 128) if samples.dtype.kind == "u" else (0, 1 << (8 * samples.dtype.itemsize - 1))
    scaled: NDArray[np.float32] = ((samples.astype(np.float64) - zero) / full_scale).mean(axis=1)
    return scaled.astype(np.float32)


def _exactly(source: IO[bytes], count: int) -> bytes:
    data = source.read(count)
    if len(data) < count:
        raise MayaError("the WAV on the standard input is cut off in its header")
    return data
