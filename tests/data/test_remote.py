"""Corpora in object storage: manifests are copied, audio is read where it is, tables are sent back."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.audio.object_store import S3Store, s3_store, use_s3_store
from maya.data.corpus.manifest import PARTS
from maya.data.prepare.remote import copy_descriptions, s3_name
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes.cli import main
from tests.data.making import write_corpus, write_manifest, write_tar

TIME = datetime(2026, 1, 1, tzinfo=UTC)


class Objects:
    """What boto3's client does with one bucket, in memory. A listing has two objects a page."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.cut = 0  # bytes that an upload loses

    def head_object(self, **options: Any) -> dict[str, Any]:
        if options["Key"] not in self.data:
            raise RuntimeError("An error occurred (404)")
        return {"ContentLength": len(self.data[options["Key"]]), "LastModified": TIME}

    def get_object(self, **options: Any) -> dict[str, Any]:
        data, (begin, end) = self.data[options["Key"]], options["Range"].removeprefix("bytes=").split("-")
        body = data[int(begin) : int(end) + 1]
        whole = {"ContentRange": f"bytes {begin}-{end}/{len(data)}", "LastModified": TIME}
        return {"Body": io.BytesIO(body), **whole}

    def list_objects_v2(self, **options: Any) -> dict[str, Any]:
        prefix, begin = options["Prefix"], int(options.get("ContinuationToken", 0))
        names = sorted(n for n in self.data if n.startswith(prefix) and "/" not in n.removeprefix(prefix))
        contents = [
            {"Key": n, "Size": len(self.data[n]), "LastModified": TIME} for n in names[begin : begin + 2]
        ]
        truncated = begin + 2 < len(names)
        return {"Contents": contents, "IsTruncated": truncated, "NextContinuationToken": str(begin + 2)}

    def upload_file(self, file: str, bucket: str, key: str) -> None:
        data = Path(file).read_bytes()
        self.data[key] = data[: len(data) - self.cut]


@pytest.fixture
def objects() -> Iterator[Objects]:
    before, client = s3_store(), Objects()
    use_s3_store(S3Store(client))
    yield client
    use_s3_store(before)


def test_names_of_folders_in_storage() -> None:
    assert s3_name(Path("s3://bucket/a folder/")) == "s3://bucket/a folder"
    assert s3_name(Path("/s3/bucket")) is None


@pytest.mark.parametrize("in_tar", [False, True])
def test_a_corpus_in_storage_gives_the_tables_of_its_copy(
    objects: Objects, tmp_path: Path, in_tar: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_corpus(tmp_path / "c")
    if in_tar:
        members = {row["audio"]: (tmp_path / "c" / row["audio"]).read_bytes() for row in rows}
        write_tar(tmp_path / "c/a.tar", members)
        rows = [row | {"tar": "a.tar"} for row in rows]
    rows.append(rows[0] | {"id": "absent", "audio": "absent.wav"})
    write_manifest(tmp_path / "c", rows)
    for path in (tmp_path / "c").iterdir():
        objects.data[f"corpora/c/{path.name}"] = path.read_bytes()
    options = ["--experiment", "tests.tiny", "--set", "prepare.probe.num_workers=1"]
    assert main(["prepare", *options, "--corpus", str(tmp_path / "c"), "--out", str(tmp_path / "here")]) == 0
    remote = [*options, "--corpus", "s3://bucket/corpora/c", "--out", str(tmp_path / "data")]
    assert main(["prepare", *remote, "--upload", "s3://bucket/prepared"]) == 0
    assert sorted(path.name for path in (tmp_path / "data.source").iterdir()) == ["manifest.jsonl"]
    for part in PARTS:
        here = Table.open(part_path(tmp_path / "here", part))
        table = Table.open(part_path(tmp_path / "data", part))
        assert table.content_digest() == here.content_digest()
        entry, local = table.entry(0), here.entry(0)
        assert entry.path == f"s3://bucket/corpora/c/{'a.tar' if in_tar else Path(local.path).name}"
        assert torch.equal(entry.load_audio(8000), local.load_audio(8000))
        assert objects.data[f"prepared/{part}.parquet"] == part_path(tmp_path / "data", part).read_bytes()
    dropped = json.loads((tmp_path / "data/dropped.jsonl").read_text())
    assert dropped["id"] == "absent" and "s3://bucket/corpora/c" in dropped["detail"]
    assert "prepared/summary.json" in objects.data
    capsys.readouterr()
    assert main(["prepare", *remote]) == 0 and "is up to date" in capsys.readouterr().out
    objects.data["corpora/c/" + ("a.tar" if in_tar else rows[3]["audio"])] += b"\0" * 512
    assert main(["prepare", *remote]) == 0 and "audio changed since" in capsys.readouterr().out


def test_storage_without_a_manifest_and_broken_uploads(objects: Objects, tmp_path: Path) -> None:
    objects.data["c/a.wav"] = b"RIFF"
    with pytest.raises(MayaError, match="s3://bucket/c has no manifest or table among its 1 objects"):
        copy_descriptions("s3://bucket/c", tmp_path)
    (tmp_path / "x").write_bytes(b"12345")
    objects.cut = 2
    with pytest.raises(MayaError, match="s3://bucket/d/x has another size than .*x; upload it again"):
        s3_store().send(tmp_path / "x", "s3://bucket/d/x")
