"""Whether a place in object storage can take a run: each operation that the watcher needs, tried once."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from maya.storage.digest import MIB, content_md5
from maya.storage.s3 import Place, code, head, keys, reason
from maya.storage.upload import uploads

_PART = 5 * MIB  # the smallest part that S3 allows
_SKEW_SECONDS = 300  # S3 refuses requests beyond 15 minutes


@dataclass(frozen=True, slots=True)
class StorageCheck:
    """One operation. text: what was seen; of a failure the reason and what to do."""

    topic: str
    passed: bool
    text: str


def check_storage(client: Any, place: Place) -> Iterator[StorageCheck]:
    """The results in their order. The first failure is the last result: what follows needs it. All objects
    that it writes lie in a folder of their own below the place, and are deleted again."""
    trial = _Trial(client, place, place.key(f"maya-check-{uuid.uuid4().hex[:12]}"))
    topics: dict[str, Callable[[], str]] = {
        "credentials": trial.credentials,
        "bucket": trial.bucket,
        "write": trial.write,
        "read": trial.read,
        "overwrite": trial.overwrite,
        "list": trial.list,
        "multipart": trial.multipart,
        "delete": trial.delete,
    }
    try:
        for topic, run in topics.items():
            try:
                yield StorageCheck(topic, True, run())
            except _Wrong as error:
                yield StorageCheck(topic, False, str(error))
                return
            except Exception as error:  # botocore's errors have no common base that is part of its interface
                yield StorageCheck(topic, False, reason(error))
                return
    finally:
        trial.clean()


class _Wrong(Exception):
    """An answer that is none of an error and still not right."""


class _Trial:
    def __init__(self, client: Any, place: Place, folder: str) -> None:
        self.client, self.place, self.folder = client, place, folder
        self.small = {"Bucket": place.bucket, "Key": f"{folder}/small"}
        self.large = {"Bucket": place.bucket, "Key": f"{folder}/large"}
        self.data = os.urandom(1000)

    def credentials(self) -> str:
        signer = getattr(self.client, "_request_signer", None)
        given = getattr(signer, "_credentials", None)
        if signer is not None and given is None:
            raise _Wrong("there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        key = given.get_frozen_credentials().access_key if given is not None else ""
        return f"access key {key[:4]}…, endpoint {self.client.meta.endpoint_url}"

    def bucket(self) -> str:
        try:
            answer = self.client.head_bucket(Bucket=self.place.bucket)
        except Exception as error:
            if code(error) == "404":
                raise _Wrong(f"the bucket {self.place.bucket} does not exist; create it, or check "
                             "AWS_ENDPOINT_URL") from None  # fmt: skip
            raise
        sent = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        if skew := _skew(sent):
            raise _Wrong(f"the clock of this machine differs by {skew:.0f} s from the server's; set it")
        return f"{self.place.bucket} answers"

    def write(self) -> str:
        answer = self.client.put_object(**self.small, Body=self.data, ContentMD5=content_md5(self.data))
        if answer["ETag"].strip('"') != hashlib.md5(self.data, usedforsecurity=False).hexdigest():
            return f"{len(self.data)} bytes; its ETag is no MD5: uploads are verified by reading them back"
        return f"{len(self.data)} bytes, and the server's checksum is right"

    def read(self) -> str:
        whole = self.client.get_object(**self.small)["Body"].read()
        part = self.client.get_object(**self.small, Range="bytes=10-19")["Body"].read()
        if whole != self.data or part != self.data[10:20]:
            raise _Wrong("the bytes are not those that were written; a proxy between may change them")
        return "whole and in part"

    def overwrite(self) -> str:
        self.data = os.urandom(1000)
        self.client.put_object(**self.small, Body=self.data)
        if self.client.get_object(**self.small)["Body"].read() != self.data:
            raise _Wrong("after an overwrite the earlier bytes are read; switch off caches in front of it")
        return "the new bytes are read at once"

    def list(self) -> str:
        if list(keys(self.client, self.place.bucket, self.folder)) != [self.small["Key"]]:
            raise _Wrong("an object that was written is not listed")
        return "the object is listed"

    def multipart(self) -> str:
        data, tail = os.urandom(_PART), os.urandom(1000)
        upload = self.client.create_multipart_upload(**self.large)["UploadId"]
        began = time.monotonic()
        first = self.client.upload_part(**self.large, UploadId=upload, PartNumber=1, Body=data)["ETag"]
        speed = _PART / 1e6 / (time.monotonic() - began)
        if upload not in [u["UploadId"] for u in uploads(self.client, self.place.bucket, self.folder)]:
            raise _Wrong("an upload that was begun is not listed, so it could not be continued")
        listed = self.client.list_parts(**self.large, UploadId=upload).get("Parts", [])
        if [part["ETag"] for part in listed] != [first]:
            raise _Wrong("a part that arrived is not listed, so an upload could not be continued")
        second = self.client.upload_part(**self.large, UploadId=upload, PartNumber=2, Body=tail)["ETag"]
        parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]
        self.client.complete_multipart_upload(**self.large, UploadId=upload, MultipartUpload={"Parts": parts})
        if self.client.get_object(**self.large)["Body"].read() != data + tail:
            raise _Wrong("the parts were put together wrongly")
        return f"two parts, listed and joined; one connection sent {speed:.1f} MB/s"

    def delete(self) -> str:
        for at in (self.small, self.large):
            self.client.delete_object(**at)
            if head(self.client, self.place.bucket, at["Key"]) is not None:
                raise _Wrong("a deleted object is still there; the bucket may have a retention lock")
        return "deleted objects are gone"

    def clean(self) -> None:
        """Delete what a failed check left, as far as the storage lets us."""
        bucket = self.place.bucket
        try:
            for upload in list(uploads(self.client, bucket, self.folder)):
                at = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                self.client.abort_multipart_upload(**at)
            for key in list(keys(self.client, bucket, self.folder)):
                self.client.delete_object(Bucket=bucket, Key=key)
        except Exception:  # the failed check has been reported
            return


def _skew(date: str) -> float:
    """Seconds between this clock and the server's Date header, 0 where they agree well enough."""
    from email.utils import parsedate_to_datetime

    try:
        skew = abs(time.time() - parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError):
        return 0.0
    return skew if skew > _SKEW_SECONDS else 0.0
