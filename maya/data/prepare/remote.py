"""Corpora in object storage: what describes them is copied here, their audio is read where it is; and tables
that are sent there."""

import os
from pathlib import Path

from maya.audio.byte_ranges import read_range
from maya.audio.object_store import s3_store
from maya.errors import MayaError
from maya.files import read_json, writing

_S3 = "s3:/"
_DESCRIBING = (
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".gz",
    ".scp",
    ".txt",
    "",
)  # endings of files that may do so
_AT_ONCE = 1 << 25  # bytes


def s3_name(path: Path) -> str | None:
    """s3://bucket/folder where a path from a command line means that: a Path has lost one of its slashes."""
    return f"s3://{str(path).removeprefix(_S3).lstrip('/')}" if str(path).startswith(_S3) else None


def copy_descriptions(name: str, folder: Path) -> Path:
    """Copy the files that describe the corpus s3://bucket/folder, its manifests and tables, into `folder`;
    those that are there with the same size and time are kept. Raises MayaError where it has none."""
    objects = s3_store().list(name)
    wanted = {n: stamp for n, stamp in objects.items() if n and Path(n).suffix in _DESCRIBING}
    if not wanted:
        raise MayaError(
            f"{name} has no manifest or table among its {len(objects)} objects; see docs/data.md for corpora "
            "in object storage"
        )
    for path in folder.glob("*"):
        if path.name not in wanted:
            path.unlink()
    for file, stamp in wanted.items():
        path = folder / file
        if path.is_file() and (path.stat().st_size, int(path.stat().st_mtime)) == (stamp.size, stamp.mtime):
            continue
        with writing(path) as partial:
            with partial.open("wb") as out:
                for begin in range(0, stamp.size, _AT_ONCE):
                    size = min(_AT_ONCE, stamp.size - begin)
                    out.write(read_range(f"{name.rstrip('/')}/{file}", begin, size, stamp))
            os.utime(partial, (stamp.mtime, stamp.mtime))
    return folder


def send_tables(out: Path, name: str) -> list[str]:
    """Send what `maya prepare` wrote into `out` to s3://bucket/folder, summary.json last; the names sent.
    Raises MayaError where a file does not arrive whole."""
    if not read_json(out / "summary.json"):
        raise MayaError(f"{out} holds no prepared data; run maya prepare first")
    files = sorted(
        (path for path in out.iterdir() if path.is_file()), key=lambda p: (p.name == "summary.json", p.name)
    )
    for path in files:
        s3_store().send(path, f"{name.rstrip('/')}/{path.name}")
    return [path.name for path in files]
