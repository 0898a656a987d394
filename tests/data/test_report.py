from pathlib import Path

import pytest

from maya.data.report import columns, describe, table
from tests.data.making import make_cuts


def test_numbers(tmp_path: Path) -> None:
    train, dev = make_cuts(tmp_path, [0.5, 1.0, 0.5, 0.7]), make_cuts(tmp_path, [0.9, 0.6], "hi")
    found = describe({"train": train, "dev": dev, "test": []})
    assert list(found) == ["en", "hi"]
    english = found["en"]
    assert english["utterances"] == 4 and english["hours"] == pytest.approx(2.7 / 3600)
    assert english["longest_seconds"] == 1.0 and english["speakers"] == 3
    assert english["characters"] == sum(len(cut.supervisions[0].text) for cut in train)
    assert english["texts"] == len({cut.supervisions[0].text for cut in train})
    assert english["parts"]["train"]["utterances"] == 4 and english["parts"]["dev"]["utterances"] == 0
    assert english["foreign_script"] == 0
    assert found["hi"]["parts"]["dev"] == {"utterances": 2, "hours": pytest.approx(1.5 / 3600)}


def test_texts_in_another_script_are_counted(tmp_path: Path) -> None:
    cuts = make_cuts(tmp_path, [0.5, 0.5])
    next(iter(cuts)).supervisions[0].language = "hi"
    assert describe({"train": cuts})["hi"]["foreign_script"] == 1


def test_table_shows_overlap(tmp_path: Path) -> None:
    summary = describe({"train": make_cuts(tmp_path, [0.5])})
    splits = {"en": {"method": "speaker", "text_overlap": {"dev": 0.0, "test": 0.96}}}
    head, english, total = table(summary, splits).splitlines()
    assert head.split()[0] == "language" and total.split()[0] == "all"
    assert english.endswith("speaker  test 96%")


def test_columns_are_aligned() -> None:
    lines = columns([["a", "b", "c", "d"], ["aa", "10", "x", "y"]]).splitlines()
    assert lines == ["a    b  c  d", "aa  10  x  y"]
