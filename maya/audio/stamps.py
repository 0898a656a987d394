"""Identity of files, by which a replaced file is noticed, and the interface of stores of files."""

from typing import NamedTuple, Protocol

from maya.errors import MayaError

_MTIME_SLACK = 2  # seconds: copies between file systems round times that coarsely


class Stamp(NamedTuple):
    """Identity of a file: its size in bytes, and the time of its last change in seconds since 1970."""

    size: int
    mtime: int


class Store(Protocol):
    """A place that holds files. `block`: bytes below which a request costs as much as a smaller one."""

    block: int

    def stamp(self, path: str) -> Stamp:
        """MayaError when there is no such file."""

    def read(self, path: str, offset: int, size: int, stamp: Stamp | None = None) -> bytes:
        """At most `size` bytes, fewer only at the end of the file.

        Raises MayaError when the file is missing, or is not the one that `stamp` belongs to.
        """


def same_stamp(before: Stamp, now: Stamp) -> bool:
    """Whether two stamps can be those of one file."""
    return before.size == now.size and abs(before.mtime - now.mtime) <= _MTIME_SLACK


def changed(path: str, before: Stamp, now: Stamp) -> MayaError:
    """The error for a file that is not the one that was indexed."""
    if before.size != now.size:
        detail = f"it has {now.size} bytes and had {before.size}; prepare the data again"
    else:
        detail = (
            f"its time is {now.mtime} and was {before.mtime}; prepare the data again, or if its content is "
            f"the same run: touch -d @{before.mtime} '{path}'"
        )
    return MayaError(f"{path} was replaced since the manifest was made: {detail}")
