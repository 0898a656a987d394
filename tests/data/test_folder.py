from pathlib import Path

import pytest

from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import ReadOptions
from maya.data.corpus.metadata import read_metadata_csv
from maya.data.corpus.pairs import read_pairs
from maya.errors import MayaError
from tests.data.making import write_tone


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
    rows = read_metadata_csv(tmp_path / "metadata.csv", ReadOptions())
    assert [(r.id, r.text, r.language, r.split) for r in rows] == [
        ("1", 'one, "two"', "en", "test"),
        ("2", "दो", "hi", "train"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_bad_metadata_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    with pytest.raises(MayaError, match=r"metadata\.csv.*" + message):
        read_metadata_csv(tmp_path / "metadata.csv", ReadOptions())


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
    assert {r.language for r in read_pairs(tmp_path, ReadOptions(language="mr"))[0]} == {"mr"}, (
        "the user's language overrides the folder's"
    )


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


def test_bad_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text('file_name,text\na.wav,"' + "x" * 200_000)
    with pytest.raises(MayaError, match=r"metadata\.csv:2: not CSV \(field larger"):
        read_metadata_csv(path, ReadOptions(language="en"))
    path.write_text("file_name,text\n/,x\n../../a.wav,y\n")
    with pytest.raises(MayaError, match=r"metadata\.csv:3: the path '\.\./\.\./a\.wav' leaves"):
        read_metadata_csv(path, ReadOptions(language="en"))
