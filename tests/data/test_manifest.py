import json
import os
from pathlib import Path
from typing import Any

import pytest

from maya.data.corpus.manifest import read_manifest
from maya.errors import MayaError
from tests.data.making import write_manifest

GOOD: dict[str, Any] = {"id": "a", "language": "hi", "text": "एक", "audio": "a.wav"}


def test_fields_are_read(tmp_path: Path) -> None:
    full = GOOD | {
        "id": "b", "speaker": "s", "duration": 2, "split": "dev", "kind": "k", "source": "x",
        "licence": "CC0", "tar": "t.tar", "offset": 512, "size": 9, "sample_rate": 8000, "other": [1],
    }  # fmt: skip
    path = write_manifest(tmp_path, [GOOD, "", full, GOOD | {"id": "c", "speaker": None}])
    a, b, c = read_manifest(path)
    assert (a.id, a.language, a.text, a.audio, a.speaker, a.where) == (
        "a",
        "hi",
        "एक",
        "a.wav",
        None,
        f"{path}:1",
    )
    assert (b.speaker, b.duration, b.split, b.kind, b.source, b.licence) == ("s", 2, "dev", "k", "x", "CC0")
    assert (b.tar, b.offset, b.size, b.sample_rate, b.where) == ("t.tar", 512, 9, 8000, f"{path}:3")
    assert c.speaker is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object but list; write one object a line"),
        ("[", "not JSON lines; write one object a line, without [ ] and commas"),
        (json.dumps(GOOD) + ",", "not JSON lines; write one object a line"),
        (GOOD | {"id": "b", "language": "Hindii"}, "did you mean hi (Hindi)?"),
        ({"id": "b", "language": "hi", "audio": "b.wav"}, "the field 'text' is missing"),
        (GOOD | {"id": "b", "text": None}, "the field 'text' is missing"),
        (GOOD | {"id": "b", "text": 5}, "the field 'text' must be text, not 5"),
        (GOOD | {"id": " "}, "the field 'id' is empty"),
        (GOOD | {"id": "b", "speaker": 3}, "the field 'speaker' must be text"),
        (
            GOOD | {"id": "b", "language": "xx"},
            "unknown language 'xx'; expected an ISO 639 code such as hi, bn",
        ),
        (GOOD | {"id": "b", "split": "valid"}, "split 'valid' is none of train, dev, test"),
        (GOOD | {"id": "b", "duration": 0}, "'duration' must be seconds above zero"),
        (GOOD | {"id": "b", "duration": "3"}, "'duration' must be seconds"),
        (GOOD | {"id": "b", "duration": True}, "'duration' must be seconds"),
        (
            '{"id": "b", "language": "hi", "text": "x", "audio": "b", "duration": NaN}',
            "'duration' must be seconds",
        ),
        (GOOD | {"id": "b", "tar": "t.tar", "offset": 5}, "'offset' and 'size' are needed together"),
        (GOOD | {"id": "b", "offset": 5, "size": 5}, "'offset' is given without 'tar'"),
        (
            GOOD | {"id": "b", "tar": "t.tar", "offset": -1, "size": 5},
            "'offset' must be a whole number from 0",
        ),
        (GOOD | {"id": "b", "tar": "t.tar", "offset": 0, "size": 0}, "'size' must be a whole number from 1"),
        (GOOD, "the id 'a' occurs in line 1 already"),
        (GOOD | {"id": "b", "audio": "x/../../y.wav"}, "leaves the corpus folder"),
        (GOOD | {"id": "b", "tar": "../y.tar"}, "leaves the corpus folder"),
        (GOOD | {"id": "b", "tar": "t.tar", "offset": 10**30, "size": 1}, "'offset' must be a whole number"),
        (GOOD | {"id": "b", "duration": 10**400}, "'duration' must be seconds"),
        (json.dumps(GOOD | {"id": "b", "text": "\udcff"}), "'text' holds half of a character"),
        (GOOD | {"id": "b", "audio": "a\0.wav"}, "'audio' holds a zero byte"),
        ("[" * 100_000, "nested too deep"),
        ('{"id": ' + "1" * 5000 + "}", "a number has thousands of digits"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write_manifest(tmp_path, [GOOD, GOOD | {"id": "z"}, line])
    with pytest.raises(MayaError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_of_several_bad_lines_is_named_and_the_rest_counted(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [GOOD, "{", GOOD, "{"])
    with pytest.raises(MayaError, match=r":2: not JSON .*\(and 2 more lines have problems\)"):
        read_manifest(path)


def test_languages_may_be_narrowed(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [GOOD])
    with pytest.raises(MayaError, match="unknown language 'hi'; expected one of ta, te"):
        read_manifest(path, ("ta", "te"))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match=r"cannot read .*manifest\.jsonl: No such file"):
        read_manifest(tmp_path / "manifest.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(MayaError, match="describes no utterance"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(MayaError, match=r"m\.jsonl:2 is not UTF-8"):
        read_manifest(tmp_path / "m.jsonl")


def test_absolute_paths_and_any_name_in_a_tar_are_allowed(tmp_path: Path) -> None:
    rows = [
        GOOD | {"audio": "/data/a.wav"},
        GOOD | {"id": "b", "audio": "../b.wav", "tar": "t.tar"},
        GOOD | {"id": "c", "audio": "x/../c.wav"},
    ]
    assert [row.audio for row in read_manifest(write_manifest(tmp_path, rows))] == [
        "/data/a.wav",
        "../b.wav",
        "x/../c.wav",
    ]


def test_binary_files_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(MayaError, match=":1 is longer than"):
        read_manifest(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MayaError, match="is not a file"):
        read_manifest(path)
