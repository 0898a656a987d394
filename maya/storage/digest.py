"""Digests of a file as object storage needs them: SHA-256 of all of it, MD5 of each part."""

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import BinaryIO

MIB = 1 << 20
_MOST_PARTS = 9_000  # S3 allows 10 000


@dataclass(frozen=True, slots=True)
class FileDigest:
    """size, part_size: bytes; the last part may be smaller. parts: the MD5 of each; an empty file has one."""

    size: int
    part_size: int
    sha256: str
    parts: tuple[bytes, ...]

    @property
    def etag(self) -> str:
        """The ETag that S3 and R2 compute from the bytes they received: the MD5, or for an upload in several
        parts the MD5 of their MD5s with the number of parts."""
        if len(self.parts) == 1:
            return self.parts[0].hex()
        return f"{hashlib.md5(b''.join(self.parts)).hexdigest()}-{len(self.parts)}"

    def span(self, part: int) -> tuple[int, int]:
        """(offset, bytes) of a part, counted from 0."""
        offset = part * self.part_size
        return offset, min(self.part_size, self.size - offset)


def part_size_for(size: int, wanted: int) -> int:
    """`wanted` bytes a part, or whole MiB for as many as are allowed."""
    smallest = -(-size // _MOST_PARTS)
    return wanted if smallest <= wanted else -(-smallest // MIB) * MIB


def digest_file(file: BinaryIO, wanted: int) -> FileDigest:
    """Read a file once. wanted: bytes a part. The pages that it brings into memory are given back, so that
    hashing a checkpoint does not push the training data out of the page cache."""
    size = os.fstat(file.fileno()).st_size
    part_size, whole, offset = part_size_for(size, wanted), hashlib.sha256(), 0
    parts: list[bytes] = []
    while True:
        data = read_at(file, offset, part_size)
        if not data and parts:
            break
        whole.update(data)
        parts.append(hashlib.md5(data, usedforsecurity=False).digest())
        offset += len(data)
        if len(data) < part_size:
            break
    return FileDigest(offset, part_size, whole.hexdigest(), tuple(parts))


def content_md5(data: bytes) -> str:
    """The header Content-MD5, by which a server refuses bytes that changed on their way."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file."""
    pieces, number = [], file.fileno()
    while size > 0 and (piece := os.pread(number, size, offset)):
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    if pieces and hasattr(os, "posix_fadvise"):
        length = sum(map(len, pieces))
        os.posix_fadvise(number, offset - length, length, os.POSIX_FADV_DONTNEED)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
