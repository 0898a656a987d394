"""A user adds a corpus form with one file outside the checkout and no edit inside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maya.data.corpus import folder
from maya.data.corpus.folder import describing_files, read_corpus, register_corpus
from maya.data.corpus.manifest import Row
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import examine
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes import cli
from tests.data.making import encoded, tone, write_tar, write_tone

# Praat's TextGrid beside each recording: an interval with a text is an utterance.
MINE = '''
"""Recordings with Praat's TextGrid beside them; an interval with a text is an utterance."""

import re
from pathlib import Path

from maya.data.corpus.folder import register_corpus
from maya.data.corpus.manifest import ReadOptions, Result, Row
from maya.recipes.experiment import Experiment

INTERVAL = re.compile(r'xmin = ([\\d.]+)\\s+xmax = ([\\d.]+)\\s+text = "([^"]*)"')


def grids(corpus: Path) -> list[Path]:
    return sorted(corpus.glob("*.TextGrid"))


def read(corpus: Path, options: ReadOptions) -> Result:
    rows = []
    for grid in grids(corpus):
        for start, end, text in INTERVAL.findall(grid.read_text(encoding="utf-8")):
            if text.strip():
                rows.append(
                    Row(
                        id=f"{grid.stem}-{start}",
                        language=options.language or "en",
                        text=text,
                        audio=f"{grid.stem}.wav",
                        where=str(grid),
                        speaker=grid.stem.split("_")[0],
                        start=float(start),
                        duration=float(end) - float(start),
                        labels={"style": "read"},
                    )
                )
    return rows, []


register_corpus("textgrid", matches=grids, read=read, files=grids)


def experiment() -> Experiment:
    return Experiment(name="mine", languages=("en",))
'''
GRID = """File type = "ooTextFile"
item [1]:
    intervals [1]:
        xmin = {0}
        xmax = {1}
        text = "one two {4}"
    intervals [2]:
        xmin = {1}
        xmax = {2}
        text = ""
    intervals [3]:
        xmin = {2}
        xmax = {3}
        text = "three {4}"
"""


@pytest.fixture(autouse=True)
def forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "FORMS", list(folder.FORMS))


def test_a_users_corpus_form_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, experiment = tmp_path / "corpus", tmp_path / "mine.py"
    for i in range(6):
        write_tone(corpus / f"s{i}_a.wav", 3.0, pitch=200 + 20 * i)
        (corpus / f"s{i}_a.TextGrid").write_text(GRID.format(0, 1.0, 1.5, 2.5, "abcdef"[i]), encoding="utf-8")
    experiment.write_text(MINE, encoding="utf-8")
    assert len([line for line in MINE.splitlines() if line.strip()]) <= 42
    arguments = [
        "prepare",
        "--experiment",
        str(experiment),
        "--corpus",
        str(corpus),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(arguments) == 0
    entries = [
        entry
        for part in ("train", "dev", "test")
        for entry in Table.open(part_path(tmp_path / "out", part)).entries()
    ]
    assert len(entries) == 12 and {entry.speaker for entry in entries} == {f"s{i}" for i in range(6)}
    assert all(entry.labels == {"style": "read"} and entry.duration == 1.0 for entry in entries)
    assert all(len(entry.load_audio()) == 16000 for entry in entries)
    assert len(describing_files(corpus)) == 6
    capsys.readouterr()
    assert cli.main(arguments) == 0 and "is up to date" in capsys.readouterr().out
    (corpus / "s0_a.TextGrid").write_text(GRID.format(0, 1.0, 1.5, 2.5, "other"), encoding="utf-8")
    assert cli.main(arguments) == 0 and "another text than before: 2" in capsys.readouterr().out


def test_a_users_form_may_be_a_file_and_comes_first(tmp_path: Path) -> None:
    """The audio is beside the file. Registering a name again replaces the form."""
    from maya.data.corpus.manifest import ReadOptions, Result

    def read(corpus: Path, options: ReadOptions) -> Result:
        return [Row(id="a", language="en", text="one", audio="a.wav", where=str(corpus))], []

    write_tone(tmp_path / "a.wav")
    (tmp_path / "list.txt").write_text("a.wav one\n")
    own = len(folder.FORMS)
    with pytest.raises(MayaError, match="list.txt is no corpus: name a folder, or a .json"):
        read_corpus(tmp_path / "list.txt")
    register_corpus("list", lambda corpus: corpus.name == "list.txt", lambda corpus, options: ([], []))
    with pytest.raises(MayaError, match=r"list.txt describes no utterance that can be used"):
        read_corpus(tmp_path / "list.txt")
    register_corpus("list", lambda corpus: corpus.name == "list.txt", read)
    rows, _ = read_corpus(tmp_path / "list.txt")
    assert [row.audio for row in rows] == [str(tmp_path / "a.wav")] and len(folder.FORMS) == own + 1
    register_corpus("mine", lambda corpus: (corpus / "a.wav").is_file(), read)
    assert read_corpus(tmp_path)[0][0].id == "a"


def register_rows(*rows: Row) -> None:
    """A form of all corpora, which have these rows."""
    register_corpus("rows", lambda corpus: True, lambda corpus, options: (list(rows), []))


ROW = Row(id="a", language="en", text="one", audio="a.wav", where="m:1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "a"}, "m:2: the id 'a' occurs in m:1 already"),
        ({"split": "validation"}, "m:2: split 'validation' is none of train, dev, test"),
        ({"language": "klingonese"}, "m:2: unknown language 'klingonese'"),
        ({"subset": "train", "split": "dev"}, "m:2: the subset 'train' has the name of a split"),
        ({"subset": "a/b", "split": "dev"}, "m:2: the subset must be a name of letters"),
        ({"start": -0.5, "duration": 0.8}, "m:2: an utterance must begin at zero seconds or later"),
        ({"start": float("nan"), "duration": 0.8}, "m:2: an utterance must begin at zero"),
        ({"duration": -0.2}, "m:2: the field 'duration' must be seconds above zero"),
        ({"labels": {"age": 3}}, "m:2: the label 'age' must be text, not 3"),
        ({"text": None}, "m:2: the field 'text' is missing"),
        ({"speaker": 3}, "m:2: the field 'speaker' must be text, not 3"),
        ({"audio": "../b.wav"}, "m:2: the path '../b.wav' leaves the corpus folder"),
    ],
)
def test_rows_of_a_users_form_are_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """A second `train` would replace the table of that part; a start below zero would read other audio."""
    register_rows(ROW, replace(ROW, **{"id": "b", "where": "m:2"} | changes))
    with pytest.raises(MayaError, match=message):
        read_corpus(tmp_path)


def test_languages_of_a_users_form_become_codes(tmp_path: Path) -> None:
    register_rows(replace(ROW, language="English", subset="clean", split="dev"))
    assert read_corpus(tmp_path)[0] == [replace(ROW, subset="clean", split="dev")]


@pytest.mark.parametrize("in_tar", [False, True])
def test_the_path_of_a_corpus_file_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_tar: bool
) -> None:
    rows = [replace(ROW, id=f"u{i}", text=f"one {i}", audio=f"{i}.wav", speaker=f"s{i}") for i in range(6)]
    if in_tar:
        audio = {row.audio: encoded(tone(1.0), 16000, "WAV") for row in rows}
        write_tar(tmp_path / "corpus/a.tar", audio)
        rows = [replace(row, tar="a.tar") for row in rows]
    else:
        for row in rows:
            write_tone(tmp_path / "corpus" / row.audio)
    (tmp_path / "corpus/list.txt").write_text("")
    register_rows(*rows)
    monkeypatch.chdir(tmp_path)
    examined = examine(Path("corpus/list.txt"), languages=["en"], cfg=PrepareConfig())
    assert len(list(examined.kept())) == 6 and not list(examined.dropped())
