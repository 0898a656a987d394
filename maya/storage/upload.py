"""Uploading a file: in parts, continued where an earlier process stopped, and verified on the server."""

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from maya.config import config
from maya.errors import MayaError
from maya.ranges import Limit, PosInt
from maya.storage.digest import MIB, FileDigest, content_md5, read_at
from maya.storage.s3 import head, is_missing

_TRIES = 3  # of a part whose digest on the server is not that of the file
_PIECE = 8 * MIB  # bytes of an object that are read at once


class Stopped(Exception):
    """The process was asked to end. What the server already has stays there for the next one."""


@config
class UploadOptions:
    """How files are sent. part_mib: MiB a request; threads: requests at once (they take threads * part_mib
    of memory); max_mb_per_second: 10^6 bytes a second, all threads together."""

    part_mib: PosInt = 32
    threads: PosInt = 4
    max_mb_per_second: Limit = float("inf")


@dataclass(kw_only=True, slots=True)
class Uploader:
    """Sends files to one bucket. stop: when set, `upload` raises Stopped before the next part.

    sent: bytes of the parts that were sent, for reports.
    """

    client: Any
    bucket: str
    options: UploadOptions = field(default_factory=UploadOptions)
    stop: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def upload(self, file: BinaryIO, digest: FileDigest, key: str) -> str:
        """Send a file unless the server has it, verify it there, and return the server's ETag.

        Raises MayaError where the server's bytes are others, and botocore's errors. Then the parts that
        arrived stay on the server, and the next call sends the others.
        """
        if etag := self.verified(key, digest):
            return etag
        meta = {"Metadata": {"sha256": digest.sha256}}
        if len(digest.parts) == 1:
            self._checked(file, digest, 0, lambda **part: self.client.put_object(
                Bucket=self.bucket, Key=key, **part, **meta))  # fmt: skip
        else:
            self._in_parts(file, digest, key, meta)
        if not (etag := self.verified(key, digest)):
            raise MayaError(f"s3://{self.bucket}/{key} is not what was sent; it is sent again")
        return etag

    def verified(self, key: str, digest: FileDigest) -> str:
        """The ETag of an object if it has this size and digest, else "". The server's own ETag tells; where
        it is another one (other parts, or a store that encrypts), the object is read back."""
        answer = head(self.client, self.bucket, key)
        if answer is None or answer["ContentLength"] != digest.size:
            return ""
        etag: str = answer["ETag"].strip('"')
        if etag == digest.etag:
            return etag
        body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
        actual = hashlib.sha256()
        for piece in body.iter_chunks(_PIECE):
            actual.update(piece)
        return etag if actual.hexdigest() == digest.sha256 else ""

    def _in_parts(self, file: BinaryIO, digest: FileDigest, key: str, meta: dict[str, Any]) -> None:
        upload, etags = self.unfinished(key, digest)
        if not upload:
            upload = self.client.create_multipart_upload(Bucket=self.bucket, Key=key, **meta)["UploadId"]

        def send(part: int) -> None:
            answer = self._checked(file, digest, part, lambda **body: self.client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=part + 1, **body))  # fmt: skip
            etags[part] = answer["ETag"]

        absent = iter([part for part in range(len(digest.parts)) if part not in etags])
        failed = threading.Event()

        def work() -> None:
            try:
                while not failed.is_set() and (part := next(absent, None)) is not None:
                    send(part)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self.options.threads) as pool:
            futures = [pool.submit(work) for _ in range(self.options.threads)]
        for future in futures:
            future.result()
        parts = [{"PartNumber": part + 1, "ETag": etags[part]} for part in sorted(etags)]
        try:
            self.client.complete_multipart_upload(
                Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except Exception:  # the answer may have been lost after the work was done
            if not self.verified(key, digest):
                raise

    def unfinished(self, key: str, digest: FileDigest) -> tuple[str, dict[int, str]]:
        """(the id of an upload of this key that was begun, the ETags of its parts that are right, by their
        number from 0); of several uploads the one that has most."""
        best: tuple[str, dict[int, str]] = "", {}
        for upload in uploads(self.client, self.bucket, key):
            if upload["Key"] != key:
                continue
            etags = self._right_parts(key, upload["UploadId"], digest)
            if not best[0] or len(etags) > len(best[1]):
                best = upload["UploadId"], etags
        return best

    def _right_parts(self, key: str, upload: str, digest: FileDigest) -> dict[int, str]:
        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload)
        etags: dict[int, str] = {}
        try:
            for part in (part for page in pages for part in page.get("Parts", ())):
                number = part["PartNumber"] - 1
                if number < len(digest.parts) and part["ETag"].strip('"') == digest.parts[number].hex():
                    etags[number] = part["ETag"]
        except Exception as error:
            if not is_missing(error):
                raise
        return etags

    def _checked(self, file: BinaryIO, digest: FileDigest, part: int, send: Any) -> Any:
        """Send a part until the server's digest of it is that of the file. The server compares, too: it gets
        the MD5 of the bytes as they were read first."""
        offset, size = digest.span(part)
        for _ in range(_TRIES):
            self._wait_turn(size)
            body = read_at(file, offset, size)
            if hashlib.md5(body, usedforsecurity=False).digest() != digest.parts[part]:
                raise MayaError("the file changed while it was uploaded")
            answer = send(Body=body, ContentMD5=content_md5(body))
            self.sent += size
            if not has_md5(answer) or answer["ETag"].strip('"') == digest.parts[part].hex():
                return answer
        raise MayaError(
            f"part {part + 1} arrived damaged {_TRIES} times; the network or its proxy changes data"
        )

    def _wait_turn(self, size: int) -> None:
        """Sleep so that all threads together stay below the rate. Raises Stopped."""
        with self._lock:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + size / (self.options.max_mb_per_second * 1e6)
        if self.stop.wait(max(0.0, begin - time.monotonic())):
            raise Stopped


def has_md5(answer: dict[str, Any]) -> bool:
    """Whether the ETag of an answer is an MD5: not where the store encrypts with keys of its customer."""
    return "kms" not in answer.get("ServerSideEncryption", "") and "SSECustomerAlgorithm" not in answer


def uploads(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The unfinished uploads in several parts of keys that begin with `prefix`."""
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Uploads", ())
