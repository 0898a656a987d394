"""Audio that lies inside tar files, read in place.

A recording in a tar is an ordinary lhotse `AudioSource` of type "url" whose address names a byte range:

    bytes:///data/shard-000.tar?offset=1536&size=43210

lhotse opens every address through its IO backend, and `use_byte_ranges()` puts a backend for this scheme
in front of the current one. So `cut.load_audio()`, saving to `jsonl.gz` and lazy reading with
`CutSet.from_file` all work unchanged, and only the member's bytes are read. Importing
`maya.data.audio` calls it.
"""

import io
import os
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from lhotse.audio import AudioSource
from lhotse.serialization import CompositeIOBackend, IOBackend, get_current_io_backend, set_current_io_backend

from maya.errors import MayaError

_SCHEME = "bytes://"
_MAX_OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar: its name, and where its data begins and how long it is (bytes)."""

    name: str
    offset: int
    size: int


class ByteRangeIOBackend(IOBackend):
    """Opens `bytes://` addresses for reading."""

    def open(self, identifier: Path | str, mode: str = "rb") -> io.BytesIO:
        if mode != "rb":
            raise ValueError(f"a byte range can only be read (mode 'rb'), not opened with mode {mode!r}")
        return io.BytesIO(read_range(*parse_address(str(identifier))))

    def handles_special_case(self, identifier: Path | str) -> bool:
        return str(identifier).startswith(_SCHEME)

    def is_applicable(self, identifier: Path | str) -> bool:
        return self.handles_special_case(identifier)


def use_byte_ranges() -> None:
    """Teach lhotse, in this process, to open byte ranges; calling it again changes nothing."""
    current = get_current_io_backend()
    if not (isinstance(current, CompositeIOBackend) and isinstance(current.backends[0], ByteRangeIOBackend)):
        set_current_io_backend(CompositeIOBackend([ByteRangeIOBackend(), current]))


def byte_range_source(path: Path | str, offset: int, size: int, channels: list[int]) -> AudioSource:
    """The lhotse source of an audio file that is `size` bytes from `offset` in `path`."""
    address = f"{_SCHEME}{quote(str(Path(path).resolve()))}?offset={offset}&size={size}"
    return AudioSource(type="url", channels=channels, source=address)


def parse_address(address: str) -> tuple[str, int, int]:
    """(path, offset, size) of a `bytes://` address."""
    path, _, query = address.removeprefix(_SCHEME).partition("?")
    fields = dict(part.split("=", 1) for part in query.split("&"))
    return unquote(path), int(fields["offset"]), int(fields["size"])


def read_range(path: Path | str, offset: int, size: int) -> bytes:
    """`size` bytes of `path` from `offset`; MayaError when the file is missing or shorter than that."""
    try:
        data = _OPEN_FILES.pread(str(path), size, offset)
    except OSError as error:
        raise MayaError(f"cannot read {path}: {error.strerror}") from None
    if len(data) != size:
        raise MayaError(
            f"{path} ends before byte {offset + size}, which the manifest gives as the end of a member; "
            "the tar is truncated, or the manifest was made for another one"
        )
    return data


def index_tar(path: Path | str) -> list[TarMember]:
    """The regular files of an uncompressed tar in order; reads headers only.

    Raises MayaError when the file is missing, compressed, truncated or not a tar.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = [TarMember(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
        length = os.path.getsize(path)
    except (tarfile.TarError, EOFError) as error:
        raise MayaError(f"{path} is not an uncompressed tar file ({error})") from None
    except OSError as error:
        raise MayaError(f"cannot read {path}: {error.strerror or error}") from None
    if members and members[-1].offset + members[-1].size > length:
        raise MayaError(f"{path} is truncated: its member {members[-1].name!r} goes past the end of the file")
    return members


def member_header(path: Path | str, offset: int) -> TarMember | None:
    """The member whose data begins at `offset`, according to the header just before it; None if there is no
    header. The name is cut to 100 characters where the tar keeps long names elsewhere."""
    if offset < tarfile.BLOCKSIZE:
        return None
    try:
        block = _OPEN_FILES.pread(str(path), tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None
    except OSError as error:
        raise MayaError(f"cannot read {path}: {error.strerror}") from None
    return TarMember(info.name, offset, info.size)


class _OpenFiles:
    """Keeps tars open between reads; positional reads share a descriptor between threads and forks."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    def pread(self, path: str, size: int, offset: int) -> bytes:
        descriptor = self._descriptors.get(path)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = os.open(path, os.O_RDONLY)
        with self._lock:
            keep = path not in self._descriptors and len(self._descriptors) < _MAX_OPEN_FILES
            if keep:
                self._descriptors[path] = descriptor
        try:
            return os.pread(descriptor, size, offset)
        finally:
            if not keep:
                os.close(descriptor)


_OPEN_FILES = _OpenFiles()
