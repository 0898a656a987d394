"""Formats whose header gives the size of the samples: WAV, RF64, W64, AIFF, AU, CAF, SPHERE and VOC.

libsndfile takes a size that is larger than the file for what there is, and 0 for no samples. Here the size
meets the size of the file. A writer that could not go back (a pipe) leaves 0, all ones, or the largest
number of 31 or 32 bits; then the samples go on to the end of the file.
"""

import re
from typing import Literal

from maya.audio.containers.reader import DamagedAudio, Reader, Segment, patched

Order = Literal["big", "little"]

_ALL = 1 << 32
# ffmpeg writes 2**32 - 1; sox and arecord about 2**31, less some bytes of header.
_NEAR = 1 << 13
_W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
_MOST_CHUNKS = 10_000  # before the samples: more are a damaged header


def is_wav(head: bytes) -> bool:
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def wav(reader: Reader) -> list[Segment]:
    """WAV, RF64 and BW64; other WAVs that follow are read too."""
    segments: list[Segment] = []
    start: int | None = 0
    while start is not None:
        segment, start = _one_wav(reader, start)
        segments.append(segment)
    return segments


def _one_wav(reader: Reader, start: int) -> tuple[Segment, int | None]:
    """The WAV that begins at byte `start`, and where another one begins behind it."""
    big = reader.at(start, 4) == b"RIFX"
    order: Order = "big" if big else "little"
    changes: dict[int, bytes] = {}
    inserted: dict[int, bytes] = {}
    position, wide = start + 12, None
    for _ in range(_MOST_CHUNKS):
        name, size = _chunk(reader, position, order)
        if name == b"data":
            break
        if name == b"ds64":
            wide = position + 16
        position += 8 + size
        if size % 2:
            if _is_name(reader.at(position, 4)) and not _is_name(reader.at(position + 1, 4)):
                inserted[position] = b"\0"  # a writer that forgot to fill up to an even number
            else:
                position += 1
    else:
        raise DamagedAudio("has a damaged header: no samples follow it")
    begin, available = position + 8, reader.size - position - 8
    if wide is not None and size == _ALL - 1:
        size = int.from_bytes(reader.at(wide, 8), "little")
        place, width, unknown = wide, 8, size == 0 or size >= 1 << 63
    else:
        place, width, unknown = position + 4, 4, _is_open(size)
    # Some writers count the header among the samples.
    unknown = unknown or (size > available and size in (reader.size - start, reader.size - start - 8))
    if unknown and size == 0 and _chunks_follow(reader, begin, order):
        unknown = False
    if unknown:
        if available < 1 << 8 * width:
            changes[place] = available.to_bytes(width, order)
        return Segment(patched(start, reader.size, changes, inserted)), None
    _check_size(size, available)
    end = begin + size + size % 2
    for other in {end, start + 8 + int.from_bytes(reader.at(start + 4, 4), order)}:
        if end <= other < reader.size and is_wav(reader.at(other, 12)):
            return Segment(patched(start, other, changes, inserted)), other
    return Segment(patched(start, reader.size, changes, inserted)), None


def is_w64(head: bytes) -> bool:
    return head[:4] == b"riff" and head[24:28] == b"wave"


def w64(reader: Reader) -> list[Segment]:
    """Sony Wave64: names of 16 bytes, sizes of 8 that count the 24 bytes of both."""
    position = 40
    for _ in range(_MOST_CHUNKS):
        header = reader.at(position, 24)
        if len(header) < 24:
            raise DamagedAudio("is truncated: it ends before its samples begin")
        size = int.from_bytes(header[16:], "little")
        if header[:16] == _W64_DATA:
            available = reader.size - position
            if 24 < size < 1 << 62:
                _check_size(size - 24, available - 24)
                _check_alone(is_w64(reader.at(position + -(-size // 8) * 8, 28)))
                return [Segment(((0, reader.size),))]
            change = {position + 16: available.to_bytes(8, "little")}
            return [Segment(patched(0, reader.size, change, {}))]
        position += max(24, -(-size // 8) * 8)
    raise DamagedAudio("has a damaged header: no samples follow it")


def is_iff(head: bytes) -> bool:
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV")


def iff(reader: Reader) -> list[Segment]:
    """AIFF, AIFF-C and SVX."""
    position = 12
    for _ in range(_MOST_CHUNKS):
        name, size = _chunk(reader, position, "big")
        if name in (b"SSND", b"BODY"):
            if not _is_open(size):
                _check_size(size, reader.size - position - 8)
                _check_alone(is_iff(reader.at(position + 8 + size + size % 2, 12)))
            return [Segment(((0, reader.size),))]
        position += 8 + size + size % 2
    raise DamagedAudio("has a damaged header: no samples follow it")


def is_au(head: bytes) -> bool:
    return head[:4] in (b".snd", b"dns.")


def au(reader: Reader) -> list[Segment]:
    """Sun's AU, of either byte order."""
    head = reader.at(0, 24)
    order: Order = "big" if head[:1] == b"." else "little"
    begin, size = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    if not _is_open(size):
        _check_size(size, reader.size - begin)
        _check_alone(is_au(reader.at(begin + size, 4)))
    elif size == 0 and reader.size > begin:
        return [Segment(patched(0, reader.size, {8: b"\xff" * 4}, {}))]
    return [Segment(((0, reader.size),))]


def is_caf(head: bytes) -> bool:
    return head[:4] == b"caff"


def caf(reader: Reader) -> list[Segment]:
    """Apple's Core Audio Format."""
    position = 8
    for _ in range(_MOST_CHUNKS):
        header = reader.at(position, 12)
        if len(header) < 12:
            raise DamagedAudio("is truncated: it ends before its samples begin")
        size, available = int.from_bytes(header[4:], "big", signed=True), reader.size - position - 12
        if header[:4] == b"data":
            if size > 0:
                _check_size(size, available)
                _check_alone(_another_caf(reader, position + 12 + size))
                return [Segment(((0, reader.size),))]
            return [Segment(patched(0, reader.size, {position + 4: available.to_bytes(8, "big")}, {}))]
        position += 12 + max(0, size)
    raise DamagedAudio("has a damaged header: no samples follow it")


def _another_caf(reader: Reader, position: int) -> bool:
    """Whether another CAF follows the chunks from `position` on."""
    for _ in range(_MOST_CHUNKS):
        header = reader.at(position, 12)
        if is_caf(header) or len(header) < 12:
            return is_caf(header)
        position += 12 + max(0, int.from_bytes(header[4:], "big", signed=True))
    return False


def is_sphere(head: bytes) -> bool:
    return head[:7] == b"NIST_1A"


def sphere(reader: Reader) -> list[Segment]:
    """NIST SPHERE, as the LDC publishes."""
    head = reader.at(0, 16).split()
    length = int(head[1]) if len(head) > 1 and head[1].isdigit() and len(head[1]) < 8 else 1024
    fields = dict(re.findall(rb"^(\w+) -\w+ (.*)$", reader.at(0, length), re.MULTILINE))
    coding = fields.get(b"sample_coding", b"pcm").strip()
    if b"embedded" in coding:
        raise DamagedAudio(
            f"is compressed ({coding.decode('ascii', 'replace')}), which is not read; expand it with sph2pipe"
        )
    try:
        count, channels, width = (
            int(fields.get(name, default))
            for name, default in (
                (b"sample_count", b"0"), (b"channel_count", b"1"), (b"sample_n_bytes", b"2"),
            )
        )  # fmt: skip
    except ValueError:
        raise DamagedAudio("has a damaged header: its number of samples cannot be read") from None
    size = count * channels * width
    _check_size(size, reader.size - length)
    _check_alone(is_sphere(reader.at(length + size, 7)))
    return [Segment(((0, reader.size),))]


def is_voc(head: bytes) -> bool:
    return head[:19] == b"Creative Voice File"


def voc(reader: Reader) -> list[Segment]:
    """Creative's VOC: blocks with sizes, and a zero byte after the last."""
    position = int.from_bytes(reader.at(20, 2), "little")
    for _ in range(_MOST_CHUNKS):
        header = reader.at(position, 4)
        if header[:1] == b"\0":
            _check_alone(is_voc(reader.at(position + 1, 19)))
            return [Segment(((0, reader.size),))]
        position += 4 + int.from_bytes(header[1:], "little")
        if len(header) < 4 or position > reader.size:
            break
    raise DamagedAudio("is truncated: its last block is not whole")


def _chunk(reader: Reader, position: int, order: Order) -> tuple[bytes, int]:
    header = reader.at(position, 8)
    if len(header) < 8:
        raise DamagedAudio("is truncated: it ends before its samples begin")
    return header[:4], int.from_bytes(header[4:], order)


def _is_name(four: bytes) -> bool:
    return len(four) == 4 and all(32 <= byte < 127 for byte in four)


def _is_open(size: int) -> bool:
    """Whether a size of 32 bits is what writers leave that cannot go back."""
    return size == 0 or size >= _ALL - _NEAR or abs(size - (1 << 31)) <= _NEAR


def _check_size(size: int, available: int) -> None:
    if size > available:
        raise DamagedAudio(
            f"is truncated: its header gives {size} bytes of samples, and {max(0, available)} are in the file"
        )


def _check_alone(another_follows: bool) -> None:
    """DamagedAudio where a second recording follows: libsndfile leaves it out, or plays its header."""
    if another_follows:
        raise DamagedAudio("is several recordings joined; write each to a file of its own")


def _chunks_follow(reader: Reader, position: int, order: Order) -> bool:
    """Whether whole chunks, or nothing, follow up to the end: then a size of 0 means no samples."""
    for _ in range(_MOST_CHUNKS):
        header = reader.at(position, 8)
        if not header:
            return True
        if len(header) < 8 or not _is_name(header[:4]):
            return False
        size = int.from_bytes(header[4:], order)
        position += 8 + size + size % 2
        if position > reader.size + 1:
            return False
    return False
