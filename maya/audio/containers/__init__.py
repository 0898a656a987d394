"""The length of a recording from its own bytes, and the parts that a decoder reads.

`layout` tells a format by its first bytes, walks its headers and frames, and gives the parts that libsndfile
decodes one after another. It opens nothing else than the bytes it is given.
"""

from maya.audio.containers import chunks
from maya.audio.containers.flac import flac
from maya.audio.containers.media import media_format
from maya.audio.containers.mp3 import is_mp3, mp3, tag_length
from maya.audio.containers.ogg import ogg
from maya.audio.containers.reader import DamagedAudio, Reader, Segment

__all__ = ["DamagedAudio", "Reader", "Segment", "layout", "media_format"]

_CHUNKED = (
    (chunks.is_wav, chunks.wav),
    (chunks.is_w64, chunks.w64),
    (chunks.is_iff, chunks.iff),
    (chunks.is_au, chunks.au),
    (chunks.is_caf, chunks.caf),
    (chunks.is_sphere, chunks.sphere),
    (chunks.is_voc, chunks.voc),
)
_MOST_ZEROS = 1 << 16  # bytes before the first frame of an MP3


def layout(reader: Reader) -> list[Segment]:
    """The parts of a recording, for libsndfile. Raises DamagedAudio where it cannot be read whole."""
    head = reader.at(0, 64)
    if not head:
        raise DamagedAudio("has no bytes")
    for is_format, parse in _CHUNKED:
        if is_format(head):
            return parse(reader)
    if head[:4] == b"OggS":
        return ogg(reader)
    start = 0
    while length := tag_length(reader.at(start, 10)):
        start += length
    if reader.at(start, 4) == b"fLaC":
        return flac(reader, start)
    zeros = reader.at(start, _MOST_ZEROS)
    start += len(zeros) - len(zeros.lstrip(b"\0"))
    if is_mp3(reader, start):
        return mp3(reader, start)
    raise DamagedAudio(
        "is in no format that Maya reads: they are WAV, FLAC, Ogg, MP3, AIFF, AU, CAF, W64, RF64, SPHERE and "
        "VOC; m4a, mp4, aac, webm and mkv with maya-asr[media]"
    )
