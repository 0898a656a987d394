"""FLAC: the number of samples by its last frame, compared with the number in its header.

A header written to a pipe claims 0, which libsndfile cannot read. Format: RFC 9639.
"""

from itertools import pairwise

from maya.audio.containers.reader import DamagedAudio, Reader, Segment, patched

_TAIL = 1 << 18  # bytes in which the last frame is looked for
_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # and a header of 34 bytes


def flac(reader: Reader, start: int = 0) -> list[Segment]:
    """One FLAC, or several that were joined, from byte `start`."""
    starts = [start]
    if reader.data is not None:
        for mark in _STARTS:
            place = reader.data.find(mark, start + 4)
            while place >= 0:
                starts.append(place)
                place = reader.data.find(mark, place + 4)
    starts.sort()
    return [_segment(reader, begin, end) for begin, end in pairwise([*starts, reader.size])]


def _segment(reader: Reader, begin: int, end: int) -> Segment:
    header = reader.at(begin, 42)
    if len(header) < 42:
        raise DamagedAudio("is truncated: its header is not whole")
    packed = int.from_bytes(header[18:26], "big")
    claimed, block = packed & (1 << 36) - 1, int.from_bytes(header[10:12], "big")
    largest = int.from_bytes(header[15:18], "big")
    if reader.data is None and claimed:
        return Segment(((begin, end),))  # to be read in parts: its end is far away
    if reader.at(end - 128, 3) == b"TAG":
        end -= 128  # ID3v1
    first = max(begin + 42, end - max(_TAIL, 2 * largest))
    tail = reader.at(first, end - first)
    total = _last_sample(tail, block, claimed)
    if total is None:
        if claimed:
            return Segment(((begin, end),))  # decoding it tells more
        if len(tail.strip(b"\0")) == 0:
            return Segment(((begin, end),))
        raise DamagedAudio("is truncated: its last frame is not whole")
    if total == claimed:
        return Segment(((begin, end),))
    if claimed > total:
        raise DamagedAudio(f"is truncated: its header gives {claimed} samples, and its frames end at {total}")
    number = (packed >> 36 << 36 | total).to_bytes(8, "big")
    return Segment(patched(begin, end, {begin + 18: number}, {}))


def _last_sample(tail: bytes, block: int, claimed: int) -> int | None:
    """The sample at which the last whole frame ends; None where no frame ends with these bytes."""
    place = len(tail)
    while (place := max(tail.rfind(b"\xff\xf8", 0, place), tail.rfind(b"\xff\xf9", 0, place))) >= 0:
        last = _frame_end(tail[place : place + 16], block)
        # The frame that the header ends with needs no second look: a sum over it takes milliseconds.
        if last is not None and (last == claimed or _crc(tail[place:], 0x8005, 16) == 0):
            return last
    return None


def _frame_end(header: bytes, block: int) -> int | None:
    """The sample at which a frame ends, by its header; None where these bytes are none."""
    if len(header) < 6:
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    if size_code == 0 or rate_code == 15 or header[3] & 1 or header[3] >> 4 > 10:
        return None
    lead = header[4]
    extra = 0 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length() - 1
    if lead >= 0x80 and not 1 <= extra <= 6:
        return None
    number = lead if extra == 0 else lead & (1 << 6 - extra) - 1
    for byte in header[5 : 5 + extra]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    at = 5 + extra
    width = {6: 1, 7: 2}.get(size_code, 0)
    if width:
        size = int.from_bytes(header[at : at + width], "big") + 1
    else:
        size = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    at += width + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(header) or _crc(header[: at + 1], 0x07, 8):
        return None
    return (number if header[1] & 1 else number * block) + size


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """The remainder of data that end with their own check: 0 where it is right."""
    top, mask, value = 1 << bits - 1, (1 << bits) - 1, 0
    table = _tables.get(bits)
    if table is None:
        table = []
        for number in range(256):
            entry = number << bits - 8
            for _ in range(8):
                entry = entry << 1 ^ polynomial if entry & top else entry << 1
            table.append(entry & mask)
        _tables[bits] = table
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value


_tables: dict[int, list[int]] = {}
