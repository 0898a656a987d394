"""Audio in mp4, m4a, aac, webm and mkv, decoded by PyAV (an extra): from the bytes given, and no others.

The format is told by the first bytes and fixed, so that no list of files is taken for audio; no protocol is
allowed, and no file that a container names is opened.
"""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from maya.audio.containers.reader import DamagedAudio, Reader
from maya.errors import MayaError

# Elements of Matroska by their names (RFC 9559), in hexadecimal digits.
_EBML_SEGMENT, _CLUSTER = bytes.fromhex("18538067"), bytes.fromhex("1f43b675")
_HEADERS = (bytes.fromhex("1a45dfa3"), _EBML_SEGMENT)
_EVERYWHERE = frozenset({b"\xec", b"\xbf"})  # filling, checksum
_IN_SEGMENT = _EVERYWHERE | {
    bytes.fromhex(name)
    for name in (
        "114d9b74",
        "1549a966",
        "1654ae6b",
        "1f43b675",
        "1c53bb6b",
        "1941a469",
        "1043a770",
        "1254c367",
    )
}
_IN_CLUSTER = _EVERYWHERE | {bytes.fromhex(name) for name in ("e7", "5854", "a7", "ab", "a3", "a0", "af")}
_SHORT_SECONDS = 0.1  # that a container may claim more than it holds: frames are up to 64 ms long


def media_format(head: bytes) -> str | None:
    """The name of the demuxer for what begins with these bytes; None where it is none of these."""
    if head[4:8] in (b"ftyp", b"moov", b"moof", b"styp"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return None


def read_media(reader: Reader, format: str) -> tuple[NDArray[np.float32], int]:
    """((N, C), sampling rate): all of the one audio stream. Errors are those of `media_frames`."""
    frames = [*media_frames(reader, format)]
    if not frames:
        return np.zeros((0, 1), np.float32), 0
    return np.concatenate([samples for samples, _ in frames]), frames[0][1]


def media_frames(reader: Reader, format: str) -> Iterator[tuple[NDArray[np.float32], int]]:
    """((n, C), sampling rate) of each frame of the one audio stream, as they are decoded.

    Raises DamagedAudio where the file is cut off or has no stream or several, and MayaError where PyAV is not
    installed.
    """
    {"mov": _check_boxes, "matroska": _check_segment, "aac": _check_adts}[format](reader)
    try:
        import av
    except ImportError:
        raise MayaError(
            "reading m4a, mp4, aac, webm and mkv needs PyAV: pip install 'maya-asr[media]'"
        ) from None
    reader.file.seek(0)
    try:
        with av.open(
            reader.file, "r", format=format, options={"protocol_whitelist": ""}, io_open=_refuse
        ) as container:
            yield from _decode(container)
    except av.error.FFmpegError as error:
        raise DamagedAudio(f"is damaged: {error.strerror or error}") from None


def _decode(container: Any) -> Iterator[tuple[NDArray[np.float32], int]]:
    streams = container.streams.audio
    if len(streams) != 1:
        count = f"{len(streams)} audio streams; write the one to be read to a file" if streams else "no audio"
        raise DamagedAudio(f"holds {count}")
    import av

    stream = streams[0]
    claimed = float(stream.duration * stream.time_base) if stream.duration else 0.0
    resampler, rate, samples = None, 0, 0
    for frame in container.decode(stream):
        if resampler is None:
            rate = frame.sample_rate
            resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
        if frame.sample_rate != rate:
            raise DamagedAudio(f"changes from {rate} to {frame.sample_rate} Hz; convert it to WAV or FLAC")
        for part in resampler.resample(frame):
            samples += part.samples
            yield part.to_ndarray().T.astype(np.float32, copy=False), rate
    if math.isfinite(claimed) and rate and claimed - samples / rate > _SHORT_SECONDS:
        raise DamagedAudio(
            f"is truncated: its header gives {claimed:.2f} s, and {samples / rate:.2f} s decode"
        )


def _refuse(*names: Any, **options: Any) -> BinaryIO:
    raise PermissionError("a container must not open other files")


def _check_boxes(reader: Reader) -> None:
    """mp4: boxes of a size and a name, to the end of the file. One of them, moov, describes the recording."""
    position, recordings = 0, 0
    while position < reader.size:
        header = reader.at(position, 16)
        size = int.from_bytes(header[:4], "big")
        if size == 0:
            return  # to the end
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if len(header) < 8 or size < 8:
            if not header.strip(b"\0"):
                return
            raise DamagedAudio(f"is damaged: no box of an mp4 begins at byte {position}")
        recordings += header[4:8] == b"moov"
        position += size
    if position > reader.size:
        raise DamagedAudio(f"is truncated: it goes on to byte {position}, and has {reader.size}")
    if recordings > 1:  # the demuxer reads the first
        raise DamagedAudio(f"is {recordings} recordings joined; write each to a file of its own")


def _check_segment(reader: Reader) -> None:
    """Matroska and WebM: a header, and a segment of whole elements, whose size may be open.

    Where an element is damaged, the demuxer looks for the next cluster and leaves out what lies before it.
    """
    position, begun = 0, False
    while position < reader.size:
        name = _ebml_name(reader.at(position, 4))
        if begun and name not in _HEADERS:
            return  # other bytes behind the recording
        if not name:
            break
        size, width = _ebml_size(reader.at(position + len(name), 8))
        position += len(name) + width
        end = reader.size if size == _open_size(width) else position + size
        if end > reader.size and name == _EBML_SEGMENT:
            raise DamagedAudio(f"is truncated: it goes on to byte {end}, and has {reader.size}")
        begun = begun or name == _EBML_SEGMENT
        position = _check_elements(reader, position, end) if name == _EBML_SEGMENT else end
    if not begun:
        raise DamagedAudio("is truncated: it ends before its audio begins")


def _check_elements(reader: Reader, position: int, end: int) -> int:
    """Walk through the elements of a segment, and of the clusters in it, whose size may be open, too. Returns
    where the segment ends."""
    in_cluster, cluster_end = False, None  # None: of open size
    while position < end:
        if position == cluster_end:
            in_cluster, cluster_end = False, None
        name = _ebml_name(reader.at(position, 4))
        if in_cluster and cluster_end is None and name not in _IN_CLUSTER:
            in_cluster = False  # a cluster of open size ends where an element of the segment begins
        if name in _HEADERS and not in_cluster:
            return position  # another recording, which the demuxer reads too
        if name not in (_IN_CLUSTER if in_cluster else _IN_SEGMENT):
            raise DamagedAudio(f"is damaged: no element of Matroska begins at byte {position}")
        size, width = _ebml_size(reader.at(position + len(name), 8))
        position += len(name) + width
        if name == _CLUSTER:
            in_cluster, cluster_end = True, None if size == _open_size(width) else position + size
        elif size == _open_size(width):
            raise DamagedAudio(f"is damaged: an element of Matroska without a size ends at byte {position}")
        else:
            position += size
        if position > (end if cluster_end is None else cluster_end) or (cluster_end or 0) > end:
            cut_off = max(position, cluster_end or 0) > reader.size
            kind = "truncated" if cut_off else "damaged"
            raise DamagedAudio(f"is {kind}: the element of Matroska before byte {position} is not whole")
    return position


def _ebml_name(data: bytes) -> bytes:
    """The name of the element that these bytes begin; b"" where they begin none."""
    return data[: 9 - data[0].bit_length()] if data and data[0] >= 0x10 else b""


def _open_size(width: int) -> int:
    """The number of `width` bytes that stands for a size that is not known."""
    return (1 << 7 * width) - 1


def _ebml_size(data: bytes) -> tuple[int, int]:
    """(number, bytes that it takes) of an EBML number of variable length."""
    if not data or data[0] == 0:
        raise DamagedAudio("is damaged: its header cannot be read")
    width = 9 - data[0].bit_length()
    return int.from_bytes(data[:width], "big") & (1 << 7 * width) - 1, width


def _check_adts(reader: Reader) -> None:
    """AAC in ADTS frames."""
    position = 0
    while position < reader.size:
        header = reader.at(position, 6)
        if len(header) < 6 and header[:1] == b"\xff":
            raise DamagedAudio("is truncated: its last frame is not whole")
        if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
            if reader.at(position, 3) == b"TAG" or len(reader.at(position, 1 << 16).strip(b"\0")) == 0:
                return
            raise DamagedAudio(f"is damaged: no AAC frame begins at byte {position}")
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        if length < 7:
            raise DamagedAudio(f"is damaged: no AAC frame begins at byte {position}")
        position += length
    if position > reader.size:
        raise DamagedAudio("is truncated: its last frame is not whole")
