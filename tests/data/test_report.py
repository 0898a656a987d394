from maya.data.report.statistics import Statistics
from maya.data.report.text_table import table
from maya.pages import columns
from tests.data.test_statistics import entry


def test_table_shows_overlap() -> None:
    statistics = Statistics()
    statistics.add(entry("a", seconds=36.0), "train")
    statistics.add(entry("b", seconds=36.0), "dev")
    splits = {"hi": {"method": "speaker", "text_overlap": {"dev": 0.0, "test": 0.96}}}
    head, hindi, total = table(statistics.summary(), splits).splitlines()
    assert head.split()[0] == "language" and total.split()[0] == "all"
    assert hindi.split()[:3] == ["hi", "2", "0.02"] and hindi.endswith("1    1     0  speaker  test 96%")


def test_columns_are_aligned() -> None:
    lines = columns([["a", "b", "c", "d"], ["aa", "10", "x", "y"]])
    assert lines == ["a    b  c  d", "aa  10  x  y"]
