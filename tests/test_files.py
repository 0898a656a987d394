import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.files import (
    file_sha256,
    is_disk_full,
    json_sha256,
    read_json,
    replacing,
    sha256,
    write_json,
    writing,
)


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), replacing(path) as partial:
        partial.write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old", "until all is written"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_write_creates_the_folder_and_errors_name_the_file(tmp_path: Path) -> None:
    with writing(tmp_path / "new" / "a.txt") as partial:
        partial.write_text("x")
    assert (tmp_path / "new" / "a.txt").read_text() == "x"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MayaError, match=r"cannot write .*file/a\.txt: "),
        writing(tmp_path / "file" / "a.txt"),
    ):
        pass
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError) as caught, writing(tmp_path / "b.txt"):
        raise full
    assert caught.value is full and is_disk_full(full) and not (tmp_path / "b.txt").exists()


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"text": "नमस्ते", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "नमस्ते" in (tmp_path / "a.json").read_text(encoding="utf-8"), "not escaped"
    for text in ("", "{", "[1]"):
        (tmp_path / "b.json").write_text(text)
        assert read_json(tmp_path / "b.json") == {}
    assert read_json(tmp_path / "none.json") == {}


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert sha256(b"abc") == sha256("abc") == file_sha256(tmp_path / "a") == expected
    assert len(sha256("a\udc80")) == 64, "a file name that is not UTF-8"
    assert json_sha256({"b": 1, "a": "ü"}) == json_sha256({"a": "ü", "b": 1})
    assert json_sha256([1, 2]) == sha256(json.dumps([1, 2])) != json_sha256([2, 1])
    with pytest.raises(OSError):
        file_sha256(tmp_path / "none")
