"""Positions of the members of a tar. Only its headers are read.

The header itself is taken apart by the standard library's `tarfile`. Walking from one to the next is done
here, because tarfile raises on the first damage and loses what came before it, and asks for as much memory as
a damaged header claims to need.
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from maya.audio.byte_ranges import file_stamp, store_of
from maya.audio.stamps import Store
from maya.errors import MayaError

BLOCK = tarfile.BLOCKSIZE  # 512 bytes
_MAX_NAME = 1 << 16  # bytes of a long name; systems allow 4096
_MAX_PAX = 1 << 20  # bytes of a pax header
_AFTER_END = 1 << 16  # bytes behind the end in which another tar is looked for; writers fill up to 10 KiB
_WITH_DATA = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar: its name, and where its data begins and how long it is (bytes)."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarScan:
    """members: the regular files that lie whole in the tar, in order, before any damage. problem: a sentence
    about the damage that ended the scan; None if there is none. skipped: names of sparse files, whose data
    are not one range. Links, folders and devices are left out."""

    members: list[TarMember]
    problem: str | None
    skipped: list[str]


def index_tar(path: Path | str) -> list[TarMember]:
    """The regular files of an uncompressed tar in order; reads headers only.

    Raises MayaError when the file is missing, compressed, truncated, damaged or not a tar.
    """
    scan = scan_tar(path)
    if scan.problem is not None:
        raise MayaError(scan.problem)
    return scan.members


def scan_tar(path: Path | str) -> TarScan:
    """The usable members of an uncompressed tar, `path` or `s3://bucket/key`; reads headers only.

    GNU long names, pax headers and members over 8 GB are understood. A tar that lacks its end mark is whole.
    Raises MayaError only when the file cannot be read, or is not an uncompressed tar at all.
    """
    return _Walk(str(path)).run()


def member_header(path: Path | str, offset: int) -> TarMember | None:
    """The member whose data begins at `offset`, according to the header just before it; None if there is no
    header. The name is cut to 100 characters where the tar keeps long names elsewhere."""
    if offset < BLOCK:
        return None
    try:
        info = _parse(store_of(str(path)).read(str(path), offset - BLOCK, BLOCK))
    except tarfile.TarError:
        return None
    return TarMember(info.name, offset, info.size)


class _Damage(Exception):
    """The reason why a scan ends early."""


class _Walk:
    """A walk from header to header. `long_name` and `pax` come from special headers, for the next member."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.store: Store = store_of(path)
        self.length = file_stamp(path).size
        self.members: list[TarMember] = []
        self.skipped: list[str] = []
        self.for_all: dict[str, str] = {}
        self.long_name: str | None = None
        self.pax: dict[str, str] = {}

    def run(self) -> TarScan:
        offset = 0
        try:
            while (following := self._step(offset)) is not None:
                offset = following
        except _Damage as damage:
            return TarScan(self.members, f"{self.path} is {damage}", self.skipped)
        return TarScan(self.members, None, self.skipped)

    def _step(self, offset: int) -> int | None:
        """Take in the header at `offset`; where the next one is, None at the end of the tar."""
        block = self.store.read(self.path, offset, BLOCK)
        if offset == 0 and (kind := next((k for m, k in _COMPRESSED.items() if block.startswith(m)), None)):
            raise MayaError(
                f"{self.path} is not an uncompressed tar file but compressed with {kind}; uncompress it, "
                "since positions in it mean nothing"
            )
        if not block:
            if offset == 0:
                raise MayaError(f"{self.path} is empty, and so not an uncompressed tar file")
            if self.long_name is not None or self.pax:
                raise _Damage("truncated: it ends before the member that its last header names")
            if offset > self.length:
                raise _Damage("truncated: it ends within the filling after its last member")
            return None
        if len(block) < BLOCK:
            raise _Damage(f"truncated: it ends within the header at byte {offset}")
        if not any(block):
            self._check_end(offset + BLOCK)
            return None
        try:
            info = _parse(block)
        except tarfile.TarError as error:
            if offset == 0:  # no damage, but another kind of file
                raise MayaError(f"{self.path} is not an uncompressed tar file ({error})") from None
            raise _Damage(f"damaged: at byte {offset} lies no tar header ({error})") from None
        data = offset + BLOCK
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self.long_name = _text(self._extra(info, data, _MAX_NAME).rstrip(b"\0"))
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            pass  # of a link, which is left out
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self.pax = _pax(self._extra(info, data, _MAX_PAX), offset)
        elif info.type == tarfile.XGLTYPE:
            self.for_all |= _pax(self._extra(info, data, _MAX_PAX), offset)
        else:
            return self._member(info, data)
        return data + _padded(self._checked(info.size, data, info.name))

    def _check_end(self, offset: int) -> None:
        """Raise _Damage where another tar lies behind the mark of the end, from `offset`. A tar is at least
        a record long, so that the filling of the last one needs no look."""
        if self.length - offset < tarfile.RECORDSIZE:
            return
        data = self.store.read(self.path, offset, _AFTER_END)
        offset += (len(data) - len(data.lstrip(b"\0"))) // BLOCK * BLOCK
        try:
            _parse(self.store.read(self.path, offset, BLOCK))
        except tarfile.TarError:
            return
        raise _Damage(
            f"several tars joined, of which the second begins at byte {offset} and is not read; join them "
            "with tar --concatenate"
        )

    def _member(self, info: tarfile.TarInfo, data: int) -> int:
        pax = self.for_all | self.pax
        name = pax.get("path", self.long_name or info.name).rstrip("/")
        size = info.size
        if "size" in pax:
            if not (pax["size"].isascii() and pax["size"].isdigit() and len(pax["size"]) < 20):
                raise _Damage(f"damaged: the pax header of {name!r} gives its size as {pax['size'][:30]!r}")
            size = int(pax["size"])
        self.long_name, self.pax = None, {}
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax)
        if info.type == tarfile.GNUTYPE_SPARSE:
            data = self._after_sparse_map(data)
        # Links, folders and devices have no data, whatever size they claim; unknown types are like files.
        if not sparse and info.type not in _WITH_DATA and info.type in tarfile.SUPPORTED_TYPES:
            return data
        size = self._checked(size, data, name)
        if sparse:
            self.skipped.append(name)
        elif info.type in _WITH_DATA:
            self.members.append(TarMember(name, data, size))
        return data + _padded(size)

    def _after_sparse_map(self, data: int) -> int:
        """Old GNU sparse files have more blocks of header; the last byte in use tells if another follows."""
        block, place = self.store.read(self.path, data - BLOCK, BLOCK), 482
        while len(block) == BLOCK and block[place]:
            block, place = self.store.read(self.path, data, BLOCK), 504
            data += BLOCK
        return data

    def _extra(self, info: tarfile.TarInfo, data: int, limit: int) -> bytes:
        """The data of a special header, which describes the next member."""
        if info.size > limit:
            raise _Damage(f"damaged: the header at byte {data - BLOCK} claims {info.size} bytes of names")
        return self.store.read(self.path, data, self._checked(info.size, data, info.name))

    def _checked(self, size: int, data: int, name: str) -> int:
        if size < 0:
            raise _Damage(f"damaged: the size of its member {name!r} is below zero")
        if data + size > self.length:
            raise _Damage(f"truncated: its member {name!r} goes past the end of the file")
        return size


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (ValueError, OverflowError) as error:  # of numbers that are none
        raise tarfile.ReadError(str(error)) from None


def _pax(data: bytes, offset: int) -> dict[str, str]:
    """Records of a pax header, each `<length> <key>=<value>\\n` with a length that counts itself."""
    records, rest = {}, data
    while rest.rstrip(b"\0"):
        digits, space, _ = rest[:22].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = rest[len(digits) + 1 : length - 1]
        key, equals, value = record.partition(b"=")
        if not (space and equals and length <= len(rest) and rest[length - 1 : length] == b"\n"):
            raise _Damage(f"damaged: the pax header at byte {offset} cannot be understood")
        records[_text(key)] = _text(value)
        rest = rest[length:]
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
