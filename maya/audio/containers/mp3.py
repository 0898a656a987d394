"""MPEG audio (mp3, mp2): its frames, counted one by one.

There is no number of samples in an MP3 but the one that encoders write into a first frame without sound
(Xing, Info or VBRI). Without it libsndfile guesses from the first frame, and reads no more than it guessed;
behind joined files it stops where the first number says. So the frames are counted here, each recording is
given to the decoder by itself, and one without a right number gets a frame that holds it.
"""

from typing import NamedTuple

from maya.audio.containers.reader import DamagedAudio, Reader, Segment

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version
_LAYER3 = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_LAYER2 = ((0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384), _LAYER3[1])
_LAYER1 = (tuple(range(0, 449, 32)), (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256))
_KBPS = {1: _LAYER3, 2: _LAYER2, 3: _LAYER1}  # by the two bits of the layer
_SYNC = 3  # frames in a row that are no accident
_SLACK_FRAMES = 4  # that a decoder leaves out for the delays of encoder and decoder
_TAG_BLOCK = 1 << 16  # bytes of zeros that are passed over at once


class _Frame(NamedTuple):
    """length: bytes. samples: of each channel. kind: what does not change within a recording."""

    length: int
    samples: int
    kind: tuple[int, int, int, bool]  # version, layer, sampling rate, mono


class _Run(NamedTuple):
    """Frames of one recording. info: whether the first holds no sound but `claimed`, their number."""

    begin: int
    first: _Frame
    header: bytes
    info: bool
    claimed: int | None


def is_mp3(reader: Reader, position: int) -> bool:
    """Whether frames begin here."""
    for _ in range(_SYNC):
        frame = _frame(reader.at(position, 4))
        if frame is None:
            return False
        position += frame.length
        if position >= reader.size:
            break
    return True


def mp3(reader: Reader, start: int) -> list[Segment]:
    """A segment for each recording in a file whose frames begin at byte `start`."""
    segments: list[Segment] = []
    run: _Run | None = None
    position, count = start, 0
    while position < reader.size:
        header = reader.at(position, 4)
        frame = _frame(header)
        if frame is None or position + frame.length > reader.size:
            tag = _tag(reader, position)
            if tag == 0:
                if run is not None and run.claimed == count and not _frames_follow(reader, position + 1):
                    break  # other bytes behind the sound
                raise _damage(position, whole=frame is None)
            if run is not None:
                segments.append(_segment(reader, run, position, count))
            run, position = None, position + tag
            continue
        same = run is not None and frame.kind == run.first.kind
        if run is not None and not same and not is_mp3(reader, position):
            raise _damage(position)
        info, claimed = _info(reader, position, frame)
        if same and not info:
            count += 1
        else:
            if run is not None:
                segments.append(_segment(reader, run, position, count))
            run, count = _Run(position, frame, header, info, claimed), 0 if info else 1
        position += frame.length
    if run is not None:
        segments.append(_segment(reader, run, position, count))
    return segments


def _damage(position: int, whole: bool = True) -> DamagedAudio:
    if not whole:
        return DamagedAudio("is truncated: its last frame is not whole")
    return DamagedAudio(f"is damaged: no MPEG frame begins at byte {position}")


def tag_length(head: bytes) -> int:
    """Bytes of the ID3v2 tag that these ten begin; 0 where they begin none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return size + (20 if head[5] & 0x10 else 10)


def _frame(header: bytes) -> _Frame | None:
    frame = _frames.get(header, False)
    if frame is False:
        if len(_frames) > 1 << 14:
            _frames.clear()
        frame = _frames[header] = _parse(header)
    return frame  # type: ignore[return-value]


_frames: dict[bytes, _Frame | None] = {}


def _parse(header: bytes) -> _Frame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate_code, kbps_code = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 0 or rate_code == 3 or kbps_code in (0, 15):
        return None  # reserved, or of a free bit rate, which tells no length
    rate, kbps = _RATES[version][rate_code], _KBPS[layer][version != 3][kbps_code]
    samples = {3: 384, 2: 1152, 1: 1152 if version == 3 else 576}[layer]
    padding = header[2] >> 1 & 1
    slot = 4 if layer == 3 else 1  # bytes that lengths are a multiple of
    length = (samples * 125 * kbps // rate // slot + padding) * slot
    return _Frame(length, samples, (version, layer, rate, header[3] >> 6 == 3))


def _side_bytes(kind: tuple[int, int, int, bool]) -> int:
    version, _, _, mono = kind
    return (17 if mono else 32) if version == 3 else (9 if mono else 17)


def _info(reader: Reader, position: int, frame: _Frame) -> tuple[bool, int | None]:
    """Whether a frame holds a number of frames instead of sound, and the number."""
    at = position + 4 + _side_bytes(frame.kind)
    if reader.at(at, 4) in (b"Xing", b"Info"):
        flags = int.from_bytes(reader.at(at + 4, 4), "big")
        return True, int.from_bytes(reader.at(at + 8, 4), "big") if flags & 1 else None
    if reader.at(position + 36, 4) == b"VBRI":
        return True, int.from_bytes(reader.at(position + 50, 4), "big")
    return False, None


def _frames_follow(reader: Reader, position: int) -> bool:
    """Whether frames begin anywhere behind `position`."""
    rest = reader.data if reader.data is not None else reader.at(position, _TAG_BLOCK)
    first = position if reader.data is not None else 0
    place = rest.find(b"\xff", first)
    while place >= 0:
        if is_mp3(reader, place + position - first):
            return True
        place = rest.find(b"\xff", place + 1)
    return False


def _segment(reader: Reader, run: _Run, end: int, count: int) -> Segment:
    """The frames of a run, with a right number of them before them."""
    begin = run.begin
    least = max(0, count - _SLACK_FRAMES) * run.first.samples
    if run.info and run.claimed is not None:
        if run.claimed > count + 1:
            raise DamagedAudio(f"is truncated: its header counts {run.claimed} frames, and {count} are in it")
        if run.claimed == count and reader.at(begin + 36, 4) != b"VBRI":
            return Segment(((begin, end),), least)
    begin += run.first.length if run.info else 0
    if run.first.kind[1] != 1:  # decoders look for the number in layer 3 alone
        return Segment(((begin, end),), least)
    return Segment((_numbered(run, count, end - begin), (begin, end)), least)


def _numbered(run: _Run, count: int, size: int) -> bytes:
    """A Xing frame: no sound, the number of frames and of bytes."""
    side = _side_bytes(run.first.kind)
    header = bytearray(run.header)
    header[1] |= 1  # without a checksum
    frame = run.first
    for kbps_code in range(1, 15):
        header[2] = kbps_code << 4 | header[2] & 0x0C
        frame = _parse(bytes(header)) or frame
        if frame.length >= 4 + side + 16:
            break
    body = bytes(header) + bytes(side) + b"Xing" + (3).to_bytes(4, "big") + count.to_bytes(4, "big")
    return (body + (size + frame.length).to_bytes(4, "big")).ljust(frame.length, b"\0")


def _tag(reader: Reader, position: int) -> int:
    """Bytes of a tag or of zeros between frames; 0 where there is neither."""
    head = reader.at(position, 32)
    if length := tag_length(head):
        return length
    if head[:3] == b"TAG" and position + 128 <= reader.size:
        return 128
    if head[:8] == b"APETAGEX":
        # The size leaves the header out; of a tag that has none this is its footer, behind its items.
        is_header = int.from_bytes(head[20:24], "little") & 1 << 29
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    if head[:11] == b"LYRICSBEGIN":
        text = reader.at(position, _TAG_BLOCK)
        end = max(text.find(b"LYRICS200"), text.find(b"LYRICSEND"))
        return end + 9 if end > 0 else 0
    zeros = reader.at(position, _TAG_BLOCK)
    return len(zeros) - len(zeros.lstrip(b"\0"))
