"""Divided or not, a corpus has the same rows, problems and notes."""

from pathlib import Path

import pytest

from maya.data.corpus.folder import pieces_of, read_corpus, read_piece, unread_notes
from maya.data.corpus.manifest import ReadOptions
from tests.data.making import write_lines, write_tar, write_tone
from tests.data.test_sharded_formats import TestHuggingFace as HuggingFace
from tests.data.test_sharded_formats import TestNemoTarred as NemoTarred
from tests.data.test_sharded_formats import TestShar as Shar


def check(corpus: Path, count: int, made: Path | None = None) -> None:
    notes: list[str] = []
    rows, problems = read_corpus(corpus, "en", made, notes)
    read = [
        ReadOptions(language="en", made=made, piece=piece, first=place == 0)
        for place, piece in enumerate(pieces_of(corpus, 2))
    ]
    results = [read_piece(corpus, options) for options in read]
    assert len(read) == count and rows
    assert [row for some, _ in results for row in some] == rows
    assert [problem for _, some in results for problem in some] == problems
    pieces = dict.fromkeys(note for options in read for note in options.notes)
    assert sorted([*pieces, *unread_notes(read)]) == sorted(notes)


def test_shar(tmp_path: Path) -> None:
    Shar().write(tmp_path / "shar")
    check(tmp_path / "shar", 3)


def test_sharded_nemo_tars(tmp_path: Path) -> None:
    NemoTarred().write(tmp_path, sharded=True)
    data = write_tone(tmp_path / "x.wav").read_bytes()
    for number in (0, 2):  # one member more than the manifest names
        write_tar(
            tmp_path / f"audio_{number}.tar", {f"{number}_{i}.wav": data for i in range(3)} | {"x.wav": data}
        )
    check(tmp_path, 3)


def test_one_manifest_of_several_tars_is_read_as_a_whole(tmp_path: Path) -> None:
    NemoTarred().write(tmp_path)
    assert pieces_of(tmp_path, 2) == []


@pytest.mark.parametrize("parts", [1, 2])
def test_nemo_manifests(tmp_path: Path, parts: int) -> None:
    names = ("train_manifest.json", "dev_manifest.json")[:parts]
    for name in names:
        lines = [{"audio_filepath": f"{name[0]}{i}.wav", "text": "one", "duration": 1.0} for i in range(4)]
        write_lines(tmp_path / name, *lines)
    write_lines(tmp_path / "other.json", {"x": 1})
    check(tmp_path, 2 * parts)


def test_hugging_face(tmp_path: Path) -> None:
    form = HuggingFace()
    form.save(tmp_path / "c", [form.table(2), form.table(3, 2)])
    check(tmp_path / "c", 2, tmp_path / "made")
