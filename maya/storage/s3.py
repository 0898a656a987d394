"""The client of S3 and of stores that speak its protocol: connection, places, and errors in one sentence.

boto3 comes with `pip install maya-asr[cloud]`. boto3 finds the credentials: its configuration files,
environment variables and roles apply. Other providers need AWS_ENDPOINT_URL, and R2 region `auto`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from maya.errors import MayaError

_CONNECT_SECONDS, _READ_SECONDS = 30, 60
_ATTEMPTS = 5  # of one request, by boto3, with growing pauses
# What waiting does not mend: someone must change the credentials, the bucket or its rights.
_PERMANENT = {
    "403": "the credentials may not do this, or they are for another bucket; check the rights of the key",
    "AccessDenied": "the credentials may not do this; check the rights of the key",
    "InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "Unauthorized": "the credentials are wrong; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; log in again",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "NoSuchBucket": "the bucket does not exist; create it, or check AWS_ENDPOINT_URL",
    "InvalidBucketName": "the name of the bucket is not allowed",
    "NoCredentialsError": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "PartialCredentialsError": "the credentials are incomplete; set both keys",
    "NoRegionError": "there is no region; set AWS_REGION (auto for R2)",
    "InvalidEndpoint": "AWS_ENDPOINT_URL is not an address",
}
_MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in a bucket, `s3://bucket/folder`; the prefix has no slash at its ends and may be empty."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> "Place":
        """MayaError unless the text names a bucket and a folder."""
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket or not prefix.strip("/"):
            raise MayaError(f"{url!r} does not name a folder of a bucket, such as s3://bucket/runs/large")
        return cls(bucket, prefix.strip("/"))

    def key(self, path: str) -> str:
        """The key of a file in this folder."""
        return f"{self.prefix}/{path}"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def connect(*, attempts: int = _ATTEMPTS, read_seconds: float = _READ_SECONDS, threads: int = 10) -> Any:
    """A client of boto3. It may be shared by threads, not by forked processes.

    boto3's own checksums in trailers are off: R2 and older stores refuse them. Digests are compared by
    whoever uploads or downloads.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise MayaError("s3:// needs boto3: pip install 'maya-asr[cloud]'") from None
    settings = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=min(_CONNECT_SECONDS, read_seconds),
        read_timeout=read_seconds,
        max_pool_connections=threads,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        # A session of its own reads the credentials as they are now.
        return boto3.session.Session().client("s3", config=settings)
    except Exception as error:  # botocore's errors have no common base that is part of its interface
        raise MayaError(f"cannot connect to the object storage: {reason(error)}") from None


def code(error: Exception) -> str:
    """The code of an error: S3's own, such as NoSuchKey, else the name of its class."""
    answer = getattr(error, "response", None)
    given = answer.get("Error", {}).get("Code", "") if isinstance(answer, dict) else ""
    return str(given) or type(error).__name__


def reason(error: Exception) -> str:
    """One line: what went wrong and, where a person must act, what to do."""
    lines = str(error).strip().split("\n")
    text = lines[0][:300] or type(error).__name__
    if "Invalid endpoint" in text:
        return f"{text}: {_PERMANENT['InvalidEndpoint']}"
    return f"{text}: {_PERMANENT[code(error)]}" if code(error) in _PERMANENT else text


def is_permanent(error: Exception) -> bool:
    """Whether the same request will fail again until a person acts."""
    return code(error) in _PERMANENT


def is_expected(error: Exception) -> bool:
    """Whether an error is one of the storage, the network or the disk, and no bug."""
    ours = isinstance(error, (MayaError, OSError))
    return ours or type(error).__module__.split(".")[0] in ("botocore", "boto3", "urllib3")


def is_missing(error: Exception) -> bool:
    """Whether an object or an upload does not exist."""
    return code(error) in _MISSING


def head(client: Any, bucket: str, key: str) -> dict[str, Any] | None:
    """What the store says about an object; None where there is none."""
    try:
        answer: dict[str, Any] = client.head_object(Bucket=bucket, Key=key)
    except Exception as error:
        if is_missing(error):
            return None
        raise
    return answer


def keys(client: Any, bucket: str, prefix: str) -> Iterator[str]:
    """The keys that begin with `prefix`, in their order."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            yield item["Key"]
