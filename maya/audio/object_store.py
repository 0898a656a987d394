"""Byte ranges of objects in S3, or in anything that speaks its protocol.

See `maya.storage.s3` for boto3, endpoints and credentials.
"""

import os
import threading
from typing import Any, Protocol

from maya.audio.stamps import Stamp, changed, same_stamp
from maya.errors import MayaError
from maya.storage.s3 import code, connect, reason

_BLOCK = 1 << 20  # bytes; a request costs about as much as transferring this
_TIMEOUT_SECONDS = 30


class Client(Protocol):
    """The methods of boto3's S3 client that are used."""

    def get_object(self, **options: Any) -> dict[str, Any]: ...

    def head_object(self, **options: Any) -> dict[str, Any]: ...


class S3Store:
    """Reads objects named `s3://bucket/key`; boto3 tries failed requests again by itself.

    client: for tests and unusual set-ups; by default each process makes one of its own when it first reads,
    because a client must not be shared with forked workers.
    """

    block = _BLOCK

    def __init__(self, client: Client | None = None) -> None:
        self._given = client
        self._made: tuple[int, Client] | None = None
        self._lock = threading.Lock()

    def stamp(self, path: str) -> Stamp:
        """MayaError when there is no such object."""
        bucket, key = _split(path)
        try:
            head = self._client().head_object(Bucket=bucket, Key=key)
        except MayaError:
            raise
        except Exception as error:  # botocore's errors have no common base that is part of its interface
            raise _unreadable(path, error) from None
        return Stamp(head["ContentLength"], int(head["LastModified"].timestamp()))

    def read(self, path: str, offset: int, size: int, stamp: Stamp | None = None) -> bytes:
        """At most `size` bytes, fewer only at the end of the object."""
        if size <= 0 or offset < 0:
            return b""
        bucket, key = _split(path)
        try:
            response = self._client().get_object(
                Bucket=bucket, Key=key, Range=f"bytes={offset}-{offset + size - 1}"
            )
            data = response["Body"].read()
        except MayaError:
            raise
        except Exception as error:  # as above; the body may break off, too
            if code(error) in ("InvalidRange", "416"):  # begins past the end
                return b""
            raise _unreadable(path, error) from None
        if stamp is not None:
            total = int(response["ContentRange"].rpartition("/")[2])
            now = Stamp(total, int(response["LastModified"].timestamp()))
            if not same_stamp(stamp, now):
                raise changed(path, stamp, now)
        return data

    def _client(self) -> Client:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), connect(read_seconds=_TIMEOUT_SECONDS)
            return self._made[1]


_current = S3Store()


def s3_store() -> S3Store:
    """The store that `s3://` paths are read through."""
    return _current


def use_s3_store(store: S3Store) -> None:
    """Read `s3://` paths through this store from now on, in this process and those it forks."""
    global _current
    _current = store


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise MayaError(f"{path!r} does not name an object; it should look like s3://bucket/folder/file.tar")
    return bucket, key


def _unreadable(path: str, error: Exception) -> MayaError:
    return MayaError(f"cannot read {path}: {reason(error)}")
