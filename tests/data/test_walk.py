"""Folders of audio and text pairs: links, hidden files, suffixes, and the notes on skipped files."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from maya.data.corpus.common import AUDIO_SUFFIXES
from maya.data.corpus.folder import corpus_files, read_corpus
from maya.data.corpus.walk import walk
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import examine
from maya.data.prepare.prepare import prepare_corpus
from maya.errors import MayaError
from maya.recipes.prepare import corpus_identity
from tests.data.making import write_tone


def pair(folder: Path, name: str, text: str = "one", suffix: str = ".wav") -> None:
    write_tone(folder / f"{name}{suffix}", 0.2, format="WAV")
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def ids(folder: Path, language: str | None = "en", notes: list[str] | None = None) -> list[str]:
    return [row.id for row in read_corpus(folder, language, notes=notes)[0]]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    pair(tmp_path / "store/hi", "a", "एक")
    pair(tmp_path / "store/hi/deep", "b", "दो")
    pair(tmp_path / "corpus/en", "c")
    (tmp_path / "corpus/hi").symlink_to("../store/hi")
    (tmp_path / "corpus/en/d.wav").symlink_to("../../store/hi/a.wav")
    (tmp_path / "corpus/en/d.txt").write_text("two")
    rows, dropped = read_corpus(tmp_path / "corpus")
    assert not dropped
    assert [(row.id, row.language) for row in rows] == [
        ("en/c", "en"),
        ("en/d", "en"),
        ("hi/a", "hi"),
        ("hi/deep/b", "hi"),
    ]
    before = corpus_identity(tmp_path / "corpus")
    os.utime(tmp_path / "store/hi/deep/b.wav", (1, 1))
    assert corpus_identity(tmp_path / "corpus") != before, "a change behind a link is detected"


def test_the_corpus_itself_may_be_a_link(tmp_path: Path) -> None:
    pair(tmp_path / "store", "a")
    (tmp_path / "corpus").symlink_to("store")
    assert ids(tmp_path / "corpus") == ["a"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../loop", "../../loop/a"])
def test_loops_of_links_are_reported(tmp_path: Path, target: str) -> None:
    pair(tmp_path / "loop/a", "x")
    (tmp_path / "loop/a/again").symlink_to(target)
    notes: list[str] = []
    assert ids(tmp_path / "loop", notes=notes) == ["a/x"]
    assert any(note.startswith("passed over 1 links to folders that are read") for note in notes)


def test_one_folder_behind_two_links_is_read_once(tmp_path: Path) -> None:
    pair(tmp_path / "store", "x")
    for name in ("a", "b"):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / name).symlink_to("../store")
    notes: list[str] = []
    assert ids(tmp_path / "corpus", notes=notes) == ["a/x"]
    assert notes == ["passed over 1 links to folders that are read already: b is a"]


def test_a_folder_is_read_under_its_own_name_rather_than_a_link(tmp_path: Path) -> None:
    pair(tmp_path / "hi", "x", "एक")
    (tmp_path / "a").symlink_to("hi")
    assert ids(tmp_path, None) == ["hi/x"]


def test_hidden_files_and_broken_links_are_reported(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    for hidden in (".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        pair(tmp_path / hidden, "b")
    (tmp_path / "._a.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    notes: list[str] = []
    assert ids(tmp_path, notes=notes) == ["a"]
    assert notes == [
        "passed over 5 hidden files or folders: ._a.wav, .git, .ipynb_checkpoints ...",
        "passed over 1 links that lead nowhere: gone",
    ]
    assert len(walk(tmp_path).files) == len(corpus_files(tmp_path)) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_folders_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    (tmp_path / "closed").mkdir(mode=0)
    notes: list[str] = []
    assert ids(tmp_path, notes=notes) == ["a"] and notes == ["could not open 1 folders: closed"]


@pytest.mark.parametrize("suffix", [*AUDIO_SUFFIXES, ".WAV", ".Flac", ".AIFF", ".Sph"])
def test_every_audio_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    pair(tmp_path, "a", suffix=suffix)
    (tmp_path / "a.txt").rename(tmp_path / f"a{'.TXT' if suffix.isupper() else '.Txt'}")
    (row,) = read_corpus(tmp_path, "en")[0]
    assert (row.audio, row.text) == (f"a{suffix}", "one")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".aiff", {"format": "AIFF"}),
        (".AIF", {"format": "AIFF"}),
        (".au", {"format": "AU"}),
        (".snd", {"format": "AU"}),
        (".sph", {"format": "NIST"}),
        (".w64", {"format": "W64"}),
        (".caf", {"format": "CAF"}),
        (".rf64", {"format": "RF64"}),
        (".oga", {"format": "OGG"}),
    ],
)
def test_rare_audio_formats_are_decoded(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    for name in ("a", "b", "c"):
        write_tone(tmp_path / f"{name}{suffix}", 0.5, **options)
        (tmp_path / f"{name}.txt").write_text(name * 2)
    examined = examine(tmp_path, languages=["en"], cfg=PrepareConfig())
    assert not list(examined.dropped())
    assert [round(entry.duration, 1) for entry, _ in examined.kept()] == [0.5] * 3


def test_unpaired_files_are_reported(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    write_tone(tmp_path / "b.wav", 0.2)
    (tmp_path / "c.TXT").write_text("three")
    (tmp_path / "d.wma").write_bytes(b"x")
    (tmp_path / "e.AMR").write_bytes(b"x")
    notes: list[str] = []
    rows, dropped = read_corpus(tmp_path, "en", notes=notes)
    assert [row.id for row in rows] == ["a"]
    assert [(problem.id, problem.reason) for problem in dropped] == [
        ("b", "no_transcript"),
        ("c", "missing_audio"),
    ]
    assert notes == ["passed over files that are not decoded: 1 .amr, 1 .wma; convert them to .wav or .flac"]


@pytest.mark.parametrize(
    "data", ["café".encode("latin-1"), "one".encode("utf-16"), "one".encode("utf-16-le"), b"\xff\xfe\xff"]
)
def test_an_unreadable_text_drops_one_utterance(tmp_path: Path, data: bytes) -> None:
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    (tmp_path / "b.txt").write_bytes(data)
    rows, (dropped,) = read_corpus(tmp_path, "en")
    assert [row.id for row in rows] == ["a"]
    assert (dropped.id, dropped.reason) == ("b", "unreadable_text") and "b.txt" in dropped.detail


def test_texts_of_several_lines_and_empty_texts(tmp_path: Path) -> None:
    pair(tmp_path, "a", "\ufeffone\r\n\r\ntwo\r\n")
    pair(tmp_path, "b", "")
    pair(tmp_path, "c", " \n\u200b\n")
    examined = examine(tmp_path, languages=["en"], cfg=PrepareConfig())
    assert [entry.text for entry, _ in examined.kept()] == ["one two"]
    assert [(entry.id, entry.reason) for entry in examined.dropped()] == [
        ("b", "empty_transcript"),
        ("c", "empty_transcript"),
    ]


def test_unicode_forms_of_a_name_match(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    pair(tmp_path, composed)
    (tmp_path / f"{composed}.txt").rename(tmp_path / f"{decomposed}.txt")
    assert ids(tmp_path) == [composed]


@pytest.mark.parametrize("others", [("a.flac",), ("a.WAV",), ("a.TXT",)])
def test_two_files_of_one_utterance_are_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    pair(tmp_path, "a")
    for name in others:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MayaError, match="would be the same utterance"):
        ids(tmp_path)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("fr/a", "fr"),
        ("hi_in/a", "hi"),
        ("Hindi/a", "hi"),
        ("zh-TW/a", "zh-TW"),
        ("yue/a", "yue"),
        ("cv/en/a", "en"),
        ("cmn_hans_cn/train/a", "cmn-Hans"),
    ],
)
def test_folder_names_give_the_language(tmp_path: Path, path: str, language: str) -> None:
    pair((tmp_path / path).parent, "a")
    assert [row.language for row in read_corpus(tmp_path)[0]] == [language]


@pytest.mark.parametrize("path", ["wav/a", "dev/a", "in/a", "xyz/a", "english version/a", "train/a"])
def test_folders_that_name_no_language_are_refused(tmp_path: Path, path: str) -> None:
    pair((tmp_path / path).parent, "a")
    with pytest.raises(MayaError, match="its language is not given"):
        read_corpus(tmp_path)


def test_folders_that_name_two_languages_are_refused(tmp_path: Path) -> None:
    pair(tmp_path / "cv/fr", "a")
    with pytest.raises(
        MayaError, match=r"several languages, cv \(Chuvash\) and fr \(French\); name one with"
    ):
        read_corpus(tmp_path)


def test_a_link_to_itself_is_reported(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    (tmp_path / "loop").symlink_to("loop")
    notes: list[str] = []
    assert ids(tmp_path, notes=notes) == ["a"]
    assert notes == ["passed over 1 links that lead nowhere: loop"]


def test_names_that_are_not_utf_8_cost_only_their_files(tmp_path: Path) -> None:
    """They cannot be written to a table or a report."""
    corpus, odd = tmp_path / "corpus", os.fsdecode(b"\xff")
    for i in range(6):
        pair(corpus, f"a{i}")
    write_tone(corpus / "b.wav").rename(corpus / f"b{odd}.wav")
    for name in (f"b{odd}.txt", f".hidden{odd}", f"c{odd}.txt"):
        (corpus / name).write_text("one")
    (corpus / "texts").mkdir()
    (corpus / "texts" / f"readme{odd}.txt").write_text("one")
    report = prepare_corpus(
        corpus, tmp_path / "out", languages=["en"], cfg=PrepareConfig(max_dropped_fraction=0.5)
    )
    assert report.rows == 8 and report.dropped == {"unreadable_name": 2}
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert [problem["id"] for problem in dropped] == ["b\\udcff", "c\\udcff"]
    assert r"1 hidden files or folders: .hidden\udcff" in (tmp_path / "out/report.html").read_text()
    corpus.rename(tmp_path / odd)
    with pytest.raises(MayaError, match=r"the path .*\\udcff is not UTF-8 text"):
        read_corpus(tmp_path / odd, "en")
