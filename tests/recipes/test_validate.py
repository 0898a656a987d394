import json
from pathlib import Path

import pytest

from maya.recipes import cli
from tests.data.making import write_corpus, write_manifest


def maya(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """40 utterances: one without audio, one with a digit that nobody knows the reading of."""
    rows = write_corpus(tmp_path / "c")
    (tmp_path / "c" / rows[3]["audio"]).unlink()
    rows[5]["text"] = "one 2"
    write_manifest(tmp_path / "c", rows)
    return tmp_path / "c"


def test_a_corpus_is_looked_at_and_nothing_is_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, page = tmp_path / "found.json", tmp_path / "page.html"
    assert maya("validate", "--corpus", corpus, "--json", found, "--html", page) == 0
    said = capsys.readouterr().out
    assert "dropped 1 missing_audio (no such file)" in said and "  en 1\n" in said
    assert "flagged 1 digits" in said and "40 utterances: OK" in said
    result = json.loads(found.read_text())
    assert result["refusal"] is None and result["utterances"] == 40
    assert [one["reason"] for one in result["findings"]][0] == "missing_audio"
    assert "missing_audio" in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "found.json", "page.html"]


def test_a_corpus_that_would_be_refused_fails_and_still_says_why(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    options = ("--set", "prepare.max_dropped_fraction=0.01", "--json", found)
    assert maya("validate", "--corpus", corpus, *options) == 1
    said = capsys.readouterr()
    assert "dropped 1 missing_audio" in said.out and "utterances: OK" not in said.out
    assert "1 of 40 utterances are unusable, more than max_dropped_fraction=0.01" in said.err
    assert "max_dropped_fraction" in json.loads(found.read_text())["refusal"]
    for path in corpus.glob("hi-*.wav"):
        path.unlink()
    assert maya("validate", "--corpus", corpus) == 1
    assert "all 20 utterances of 'hi' are unusable, 20 missing_audio" in capsys.readouterr().err


def test_prepared_data_are_looked_at_again(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    assert maya("prepare", "--experiment", "egs.indic12.mini", "--corpus", corpus, "--out", out) == 0
    capsys.readouterr()
    assert maya("validate", "--data", out, "--html", page) == 0
    assert "no problems found\n39 utterances: OK" in capsys.readouterr().out
    assert "Data out" in page.read_text() and "missing_audio" in page.read_text()
    (corpus / "hi-004.wav").unlink()
    assert maya("validate", "--data", out, "--sample", 0, "--html", page) == 1
    said = capsys.readouterr()
    assert "broken 1 missing_file" in said.out and "'hi-004'" in said.err
    assert "missing_file" in page.read_text()


def test_one_of_the_two_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        maya("validate")
    assert "one of the arguments --corpus --data is required" in capsys.readouterr().err
