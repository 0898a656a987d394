"""How a run lies in object storage: keys, and the manifest that makes an upload count.

    PREFIX/run.json                                     the identity of the run
    PREFIX/manifests/checkpoints/step-0000500.pt.json   what belongs to a checkpoint; written last
    PREFIX/files/checkpoints/step-0000500.pt/SHA/step-0000500.pt
    PREFIX/logs/metrics.jsonl                           all other files of the run folder

SHA is the beginning of the file's SHA-256. A file that is written again under the same name (best.pt) gets
another key, so the earlier one stays whole until the new manifest names the new one.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.storage.digest import content_md5
from maya.storage.s3 import Place, is_missing, keys

FORMAT = "maya-storage-1"
MANIFESTS, FILES, LOGS, RUN = "manifests", "files", "logs", "run.json"
STEP = re.compile(r"checkpoints/step-(\d+)(\.[^/]*)?")
UNFINISHED = (".partial", ".tmp", ".damaged", ".deleting")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a checkpoint. path: in the run folder; key: in the bucket; size: bytes."""

    path: str
    key: str
    size: int
    sha256: str
    etag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A whole checkpoint. name: its path in the run folder, such as checkpoints/step-0000500.pt."""

    name: str
    files: tuple[StoredFile, ...]

    def bytes(self) -> bytes:
        """The JSON that is stored."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1).encode()


def step_of(name: str) -> int | None:
    """The step of a training checkpoint's name; None for other files."""
    match = STEP.fullmatch(name)
    return int(match[1]) if match and not name.endswith(UNFINISHED) else None


def file_key(place: Place, path: str, sha256: str) -> str:
    """The key of a file of a checkpoint."""
    return place.key(f"{FILES}/{path}/{sha256[:16]}/{Path(path).name}")


def manifest_key(place: Place, name: str) -> str:
    return place.key(f"{MANIFESTS}/{name}.json")


def read_object(client: Any, place: Place, key: str) -> bytes | None:
    """All bytes of a small object; None where there is none."""
    try:
        data: bytes = client.get_object(Bucket=place.bucket, Key=key)["Body"].read()
    except Exception as error:
        if is_missing(error):
            return None
        raise
    return data


def write_object(client: Any, place: Place, key: str, data: bytes) -> None:
    """Write a small object. MayaError if the server's bytes are others afterwards."""
    client.put_object(Bucket=place.bucket, Key=key, Body=data, ContentMD5=content_md5(data))
    if read_object(client, place, key) != data:
        raise MayaError(f"s3://{place.bucket}/{key} is not what was written; it is written again")


def read_manifest(client: Any, place: Place, name: str) -> Manifest | None:
    """The manifest of a checkpoint; None where there is none. MayaError if it cannot be understood."""
    data = read_object(client, place, manifest_key(place, name))
    if data is None:
        return None
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        files = tuple(StoredFile(**file) for file in content["files"])
        if any(Path(file.path).is_absolute() or ".." in Path(file.path).parts for file in files):
            raise ValueError("a path outside of the run folder")
        return Manifest(name=name, files=files)
    except (ValueError, KeyError, TypeError):
        raise MayaError(
            f"s3://{place.bucket}/{manifest_key(place, name)} is not a manifest of Maya"
        ) from None


def identity(data: bytes) -> str:
    """The id of a run in run.json. MayaError if it is something else."""
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        return str(content["id"])
    except (ValueError, KeyError, TypeError):
        raise MayaError(f"{RUN} in the storage is not of Maya; choose another place") from None


def stored_names(client: Any, place: Place) -> Iterator[str]:
    """The names of all whole checkpoints."""
    prefix = place.key(MANIFESTS) + "/"
    for key in keys(client, place.bucket, prefix):
        if key.endswith(".json"):
            yield key.removeprefix(prefix).removesuffix(".json")


def stored_steps(client: Any, place: Place) -> list[tuple[int, str]]:
    """(step, name) of the whole training checkpoints, oldest first."""
    names = stored_names(client, place)
    return sorted((step, name) for name in names if (step := step_of(name)) is not None)
