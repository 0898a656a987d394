"""Audio that lies inside tar files, read in place.

A recording in a tar is an ordinary lhotse `AudioSource` whose source is the address of a byte range (see
maya.audio.byte_ranges), on a disk or in object storage. Importing this module teaches lhotse to open
such addresses (maya.audio.lhotse_audio), so `cut.load_audio()`, transforms, saving to `jsonl.gz` and lazy
reading with `CutSet.from_file` all work unchanged, and only the member's bytes are read; of a long WAV or
FLAC, only those of the cut.
"""

from pathlib import Path

from lhotse.audio import AudioSource

import maya.audio.lhotse_audio  # noqa: F401
from maya.audio.byte_ranges import ByteRange, Stamp, file_stamp, parse_address, read_range
from maya.audio.decoding import decode, read_segment
from maya.audio.tar_index import TarMember, TarScan, index_tar, member_header, scan_tar

__all__ = [
    "ByteRange", "Stamp", "TarMember", "TarScan", "byte_range_source", "decode", "file_stamp", "index_tar",
    "member_header", "parse_address", "read_range", "read_segment", "scan_tar",
]  # fmt: skip


def byte_range_source(
    path: Path | str, offset: int, size: int, channels: list[int], stamp: Stamp | None = None
) -> AudioSource:
    """The lhotse source of an audio file that is `size` bytes from `offset` in `path`, a local path or
    `s3://bucket/key`. stamp: `file_stamp(path)`, with which the file is refused once it was replaced."""
    path = str(path) if str(path).startswith("s3://") else str(Path(path).resolve())
    # Type "file" and not "url": lhotse reads the latter whole before it looks for the cut.
    return AudioSource(type="file", channels=channels, source=ByteRange(path, offset, size, stamp).address)
