import json
import re
from pathlib import Path

import pytest

from maya.audio.byte_ranges import read_range
from maya.audio.tar_index import index_tar
from maya.data.corpus.manifest import read_manifest
from maya.errors import MayaError
from maya.recipes.cli import main
from maya.recipes.pack import pack
from tests.data.making import write_corpus, write_manifest, write_tar


def test_files_are_unchanged_in_the_tar_of_their_language(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in write_corpus(tmp_path / "c", per_speaker=1)}
    out = pack(tmp_path / "c", tmp_path / "out")
    packed = read_manifest(out / "manifest.jsonl")
    assert [row.id for row in packed] == list(rows)
    for row in packed:
        assert row.tar == f"{row.language}.tar" and row.offset is not None and row.size is not None
        was = rows[row.id]
        assert read_range(out / row.tar, row.offset, row.size) == (tmp_path / "c" / was["audio"]).read_bytes()
        assert (row.text, row.speaker, row.split) == (was["text"], was["speaker"], None)
    names = [member.name for member in index_tar(out / "hi.tar")]
    assert names == [row.audio for row in packed if row.language == "hi"]


def test_labels_are_kept(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=1)
    rows[0]["labels"] = {"emotion": "happy"}
    write_manifest(tmp_path / "c", rows)
    packed = read_manifest(pack(tmp_path / "c", tmp_path / "out") / "manifest.jsonl")
    assert [dict(row.labels) for row in packed if row.labels] == [{"emotion": "happy"}]


def test_packing_again_changes_nothing_and_take_limits_each_language(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", per_speaker=1)
    pack(tmp_path / "c", tmp_path / "out")
    before = (tmp_path / "out" / "en.tar").stat().st_ino
    assert main(["pack", "--corpus", str(tmp_path / "c"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "en.tar").stat().st_ino == before
    pack(tmp_path / "c", tmp_path / "out", take=2)
    assert len(read_manifest(tmp_path / "out" / "manifest.jsonl")) == 4


def test_ids_that_are_no_file_names(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=1, speakers=2)
    rows[0]["id"], rows[1]["id"] = "../up/ü" + "x" * 200, "/absolute"
    write_manifest(tmp_path / "c", rows)
    out = pack(tmp_path / "c", tmp_path / "out")
    packed = read_manifest(out / "manifest.jsonl")
    assert [row.id for row in packed[:2]] == [rows[0]["id"], "/absolute"]
    assert all(".." not in member.name and len(member.name) < 100 for member in index_tar(out / "en.tar"))
    rows[0]["id"], rows[1]["id"] = "a/b", "a b"
    write_manifest(tmp_path / "c", rows)
    with pytest.raises(MayaError, match=r"manifest.jsonl:2: 'a b' and another utterance would both be"):
        pack(tmp_path / "c", tmp_path / "out")


def test_a_tar_without_offsets_is_packed_too(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=1, speakers=1)
    members = {row["audio"]: (tmp_path / "c" / row["audio"]).read_bytes() for row in rows}
    write_tar(tmp_path / "c" / "x.tar", members)
    write_manifest(tmp_path / "c", [row | {"tar": "x.tar"} for row in rows])
    out = pack(tmp_path / "c", tmp_path / "out")
    row = read_manifest(out / "manifest.jsonl")[0]
    assert read_range(out / "en.tar", row.offset or 0, row.size or 0) == members[rows[0]["audio"]]


def test_impossible_packing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=1, speakers=1)
    (tmp_path / "c" / rows[1]["audio"]).unlink()
    assert main(["pack", "--corpus", str(tmp_path / "c"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert re.search(r"maya pack: .*manifest\.jsonl:2: cannot read .*No such file", error)
    (tmp_path / "n").mkdir()
    line = {"audio_filepath": str(tmp_path / "c" / rows[0]["audio"]), "text": "one", "lang": "en"}
    (tmp_path / "n" / "train.json").write_text(json.dumps(line | {"offset": 0.1, "duration": 0.2}))
    with pytest.raises(MayaError, match="is a part of a longer recording"):
        pack(tmp_path / "n", tmp_path / "out")
    assert not (tmp_path / "out").exists()
