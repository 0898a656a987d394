"""Ogg: its pages, one after another (RFC 3533).

libsndfile decodes the first of several recordings in a file, which streams and joined files have, and takes
a file that was cut off for a short one. It leaves out pages whose checksum is wrong. Here each recording in
the chain is given to it by itself, and one with a damaged page or without a page that ends it is named.
"""

import struct
import zlib
from dataclasses import dataclass, field

from maya.audio.containers.reader import DamagedAudio, Reader, Segment

_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_BEGINS, _ENDS = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits turned round


@dataclass
class _Link:
    """Streams that begin together. serials: of their audio, with the number of the page that is due."""

    begin: int
    pages: dict[int, int] = field(default_factory=dict)
    others: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    has_data: bool = False


def ogg(reader: Reader) -> list[Segment]:
    """A segment for each recording of a chain."""
    links: list[_Link] = []
    position = 0
    while position < reader.size:
        header = reader.at(position, 27)
        if header[:4] != b"OggS":
            if links and not _unfinished(links[-1]) and not _page_follows(reader, position):
                break  # a tag after the end
            raise DamagedAudio(f"is damaged: no Ogg page begins at byte {position}")
        if len(header) < 27:
            raise DamagedAudio("is truncated: its last page is not whole")
        kind, serial, number = struct.unpack_from("<5xB8xII", header)
        lacing = reader.at(position + 27, header[26])
        size = 27 + len(lacing) + sum(lacing)
        if position + size > reader.size:
            raise DamagedAudio("is truncated: its last page is not whole")
        if kind & _BEGINS and (not links or links[-1].has_data):
            if links:
                _check_end(links[-1])
            links.append(_Link(position))
        if not links:
            raise DamagedAudio("begins in the middle of an Ogg stream: its header is missing")
        _add_page(links[-1], kind, serial, number, reader.at(position + 27 + len(lacing), 8))
        if serial in links[-1].pages and not _is_intact(reader.at(position, size)):
            raise DamagedAudio(f"is damaged: Ogg page {number} has a wrong checksum")
        position += size
    _check_end(links[-1])
    ends = [link.begin for link in links[1:]] + [position]
    if len(links) == 1:
        return [Segment(((0, reader.size),))]
    return [Segment(((link.begin, end),)) for link, end in zip(links, ends, strict=True)]


def _add_page(link: _Link, kind: int, serial: int, number: int, data: bytes) -> None:
    if kind & _BEGINS:
        if data.startswith(tuple(codec[:8] for codec in _CODECS)):
            link.pages[serial] = number
        else:
            link.others.add(serial)
    else:
        link.has_data = True
    if serial in link.pages:
        if number != link.pages[serial]:
            raise DamagedAudio(f"is damaged: Ogg pages are missing before page {number}")
        link.pages[serial] = number + 1
        if kind & _ENDS:
            link.ended.add(serial)


def _is_intact(page: bytes) -> bool:
    """Whether a page has the checksum that it names.

    Ogg's CRC-32 begins with the highest bit and inverts nothing. zlib's begins with the lowest bit, and
    inverts the register before and after.
    """
    without = page[:22] + bytes(4) + page[26:]
    register = zlib.crc32(without.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return register == int.from_bytes(page[22:26].translate(_REVERSED), "big")


def _unfinished(link: _Link) -> bool:
    return not set(link.pages) <= link.ended


def _check_end(link: _Link) -> None:
    if not link.pages:
        raise DamagedAudio("holds no audio that Maya reads; in Ogg that is Vorbis, Opus and FLAC")
    if len(link.pages) > 1:
        raise DamagedAudio(
            f"holds {len(link.pages)} audio streams at once; write the one to be read to a file"
        )
    if _unfinished(link):
        raise DamagedAudio(
            "is truncated: it has no page that ends the stream; copy it again, or if there is no more of it, "
            "save it as WAV or FLAC"
        )


def _page_follows(reader: Reader, position: int) -> bool:
    """Whether more pages follow after `position`."""
    tail = reader.data[position:] if reader.data is not None else reader.at(position, 1 << 20)
    return b"OggS" in tail
