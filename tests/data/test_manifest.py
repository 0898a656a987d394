import json
from pathlib import Path
from typing import Any

import pytest

from maya.data.folder import read_corpus, read_metadata, read_pairs
from maya.data.manifest import read_manifest
from maya.errors import MayaError
from tests.data.making import write_manifest, write_tone

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
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object but list"),
        ({"id": "b", "language": "hi", "audio": "b.wav"}, "the field 'text' is missing"),
        (GOOD | {"id": "b", "text": None}, "the field 'text' is missing"),
        (GOOD | {"id": "b", "text": 5}, "the field 'text' must be text, not 5"),
        (GOOD | {"id": " "}, "the field 'id' is empty"),
        (GOOD | {"id": "b", "speaker": 3}, "the field 'speaker' must be text"),
        (GOOD | {"id": "b", "language": "hin"}, "unknown language 'hin'; expected one of hi, bn"),
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
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: Any, complaint: str) -> None:
    path = write_manifest(tmp_path, [GOOD, GOOD | {"id": "z"}, line])
    with pytest.raises(MayaError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ") and complaint in str(caught.value)
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


@pytest.mark.parametrize("separator", [",", "|", "\t", ";"])
def test_metadata_csv(tmp_path: Path, separator: str) -> None:
    head = separator.join(["file_name", "transcription", "speaker_id"])
    lines = [head, separator.join(["x/a.1.wav", "एक दो", "s1"]), "", separator.join(["hi/b.wav", "तीन", ""])]
    (tmp_path / "metadata.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    rows, dropped = read_corpus(tmp_path, "mr")
    assert not dropped
    assert [(r.id, r.audio, r.text, r.speaker, r.language) for r in rows] == [
        ("x/a.1", "x/a.1.wav", "एक दो", "s1", "mr"),
        ("hi/b", "hi/b.wav", "तीन", None, "mr"),
    ]
    assert rows[1].where.endswith("metadata.csv:4")


def test_metadata_columns_and_quotes(tmp_path: Path) -> None:
    text = 'id,audio,text,language,split\n1,a.wav,"one, ""two""",en,test\n2,hi/b.wav,दो,,train\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    rows = read_metadata(tmp_path / "metadata.csv")
    assert [(r.id, r.text, r.language, r.split) for r in rows] == [
        ("1", 'one, "two"', "en", "test"),
        ("2", "दो", "hi", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty; it needs a header"),
        ("name,words\na,b\n", r":1: no column holds the audio; name it one of audio, file_name"),
        ("audio,words\na,b\n", r":1: no column holds the text"),
        ("audio,text\na.wav,b,c\n", r":2: 3 cells where the header has 2"),
        ("audio,text\na.wav,b\n", r":2: its language is not given; name one"),
        ("audio,text,language\na.wav,b,en\na.flac,c,en\n", r":3: the id 'a' occurs in line 2"),
        ("audio,text,language\n,b,en\n", r":2: the field 'id' is missing"),
        ("audio,text\n", "describes no utterance"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    with pytest.raises(MayaError, match=r"metadata\.csv.*" + complaint):
        read_metadata(tmp_path / "metadata.csv")


def test_pairs_at_any_depth(tmp_path: Path) -> None:
    for name in ("hi/s1/a.wav", "hi/b.FLAC", "te/c.mp3", "hi/no text.wav"):
        write_tone(tmp_path / name, 0.2)
    for name, text in (("hi/s1/a", "एक\n दो\n"), ("hi/b", "तीन"), ("te/c", "ఒకటి"), ("te/no audio", "x")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "README.txt").write_text("not a transcript")
    rows, dropped = read_corpus(tmp_path)
    assert [(r.id, r.language, r.text.split(), r.audio) for r in rows] == [
        ("hi/b", "hi", ["तीन"], "hi/b.FLAC"),
        ("hi/s1/a", "hi", ["एक", "दो"], "hi/s1/a.wav"),
        ("te/c", "te", ["ఒకటి"], "te/c.mp3"),
    ]
    assert [(d.id, d.reason) for d in dropped] == [
        ("hi/no text", "no_transcript"),
        ("te/no audio", "missing_audio"),
    ]
    assert {r.language for r in read_pairs(tmp_path, "mr")[0]} == {"mr"}, "what the user says comes first"


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="there is no corpus folder"):
        read_corpus(tmp_path / "none")
    with pytest.raises(MayaError, match=r"has no manifest\.jsonl, no metadata\.csv and no audio file"):
        read_corpus(tmp_path)
    write_tone(tmp_path / "a.wav", 0.2)
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(MayaError, match=r"a\.wav: its language is not given"):
        read_corpus(tmp_path)
    write_tone(tmp_path / "a.flac", 0.2)
    with pytest.raises(MayaError, match="would be the same utterance; remove one"):
        read_corpus(tmp_path, "en")
