import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from maya.data.corpus.manifest import Problem
from maya.data.report.charts import bar_window, histogram_chart, number, part_bars, strips
from maya.data.report.findings import Findings
from maya.data.report.page import Page, draw, read_page, write_page, write_run_page
from maya.data.report.statistics import EDGES, Histogram, Statistics
from maya.errors import MayaError
from tests.data.test_statistics import entry

HOSTILE = '</svg></title><script>alert(1)</script><img src=x onerror="a()">\'&\u202e\x07'
VOID = {"meta"}


class Reader(HTMLParser):
    """Collects tags, attributes and text of a page. A tag that is not closed in order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def make_page(text: str = "एक दो", id: str = "u", **fields: Any) -> Page:
    statistics, findings = Statistics(), Findings()
    for i in range(6):
        statistics.add(entry(f"{id}{i}", text, 1.0 + i, speaker=f"{id}s"), "train")
    statistics.add(entry(f"{id}9", "one", 1.0, "en"), "test")
    detail = {"id": f"{id}1", "language": "hi", "detail": text, "where": text}
    findings.add("dropped", [Problem(reason="silent", **detail)])
    findings.add("flagged", [Problem(reason="noisy", **detail)])
    split = {
        "method": "speaker",
        "parts": {part: {"seconds": 60.0, "speakers": 1} for part in ("train", "dev", "test")},
        "text_overlap": {"dev": 0.0, "test": 0.25},
        "speaker_overlap": {"dev": 0.0, "test": 0.0},
    }
    return Page(
        title=fields.pop("title", "a corpus"),
        summary={"rows": 8, "languages": statistics.summary(), "splits": {"hi": split}, "notes": [text]},
        statistics=statistics.spreads(),
        findings=findings.as_json({f"{id}1": text}),
        limits={"level": [-45.0, -9.0], "snr": [10.0]},
        **fields,
    )


TOKENIZER = {
    "model_type": "bpe", "vocab_size": 32000, "unknown_characters_of_dev": {"hi": 0.01},
    "languages": {"hi": {
        "words": 12, "share_of_text": 0.9, "share_of_training": 0.5, "pieces_per_word": 1.75,
        "pieces_per_character": 0.4, "unknown_characters": 0.0, "byte_pieces": 0.002, "left_out": {"<": 2},
    }},
}  # fmt: skip
PLAN = {
    "steps": 10, "batches": 20, "utterances": 99, "efficiency": 0.95, "max_padded_seconds": 60.0,
    "max_utterances": 12, "imbalance_median": 1.01, "imbalance_p95": 1.04,
    "hours": {"hi": 1.5}, "repeated": {"hi": 0.25}, "skipped": {"hi": 0.0},
}  # fmt: skip


def test_the_page_shows_all_numbers() -> None:
    page = Reader(draw(make_page(tokenizer=TOKENIZER, plan=PLAN)))
    text = " ".join(page.texts)
    for expected in (
        "Hindi (hi)", "English (en)", "Durations", "Characters per second", "Level of the speech", "silent",
        "Signal-to-noise", "nothing is heard", "Splits", "25 %", "Speakers", "1.75", "32,000 pieces", "5.0 %",
        "1.010",
    ):  # fmt: skip
        assert expected in text, expected
    assert {"svg", "table", "details"} <= page.tags


def test_texts_are_escaped_and_nothing_is_fetched() -> None:
    tame, hostile = (Reader(draw(make_page(text, text, title=text))) for text in ("एक दो", HOSTILE))
    assert hostile.tags == tame.tags and hostile.attributes == tame.attributes
    assert not {"script", "img", "link", "iframe"} & hostile.tags
    assert not {"src", "href", "srcset", "onerror"} & hostile.attributes
    assert any("<script>alert(1)</script>" in text for text in hostile.texts)
    assert "url(" not in draw(make_page()) and "@import" not in draw(make_page())


def test_rare_and_foreign_letters_are_marked() -> None:
    page = draw(make_page("एक दो x"))
    assert 'class="foreign" title="U+0078 LATIN SMALL LETTER X, 6 times, first in u0"' in page
    assert 'class="rare" title="U+0065 LATIN SMALL LETTER E, 1 times, first in u9"' in page
    assert "ZWJ" in draw(make_page("क\u200d"))


def test_an_empty_page_and_one_without_sound_are_drawn() -> None:
    nothing = Page(
        title="none", summary={"rows": 0, "languages": {}, "splits": {}}, statistics={}, findings=[]
    )
    assert "Nothing." in draw(nothing)
    Reader(draw(nothing))
    statistics = Statistics()
    statistics.add(entry("a", sound=None), "train")
    summary = {"rows": 1, "languages": statistics.summary(), "splits": {}}
    mute = Page(title="mute", summary=summary, statistics=statistics.spreads(), findings=[])
    assert "was not decoded" in draw(mute)


def test_a_page_can_be_redrawn_from_its_files(tmp_path: Path) -> None:
    page = make_page()
    (tmp_path / "summary.json").write_text(json.dumps(page.summary))
    report = {"statistics": page.statistics, "findings": page.findings, "limits": page.limits}
    (tmp_path / "report.json").write_text(json.dumps(report))
    again = read_page(tmp_path, "a corpus")
    write_page(again, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == draw(page)
    for damage in ("", "[]", '{"statistics": {}}', '{"unknown": 1}'):
        (tmp_path / "report.json").write_text(damage)
        with pytest.raises(MayaError, match="has no numbers to draw"):
            read_page(tmp_path, "a corpus")


def test_a_run_adds_tokenizer_and_plan(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir(), run.mkdir()
    assert write_run_page(data, run) is None
    page = make_page()
    (data / "summary.json").write_text(json.dumps(page.summary))
    (data / "report.json").write_text(json.dumps({"statistics": page.statistics, "findings": []}))
    assert write_run_page(data, run) == run / "data.html"
    assert "Pieces per word" not in (run / "data.html").read_text()
    (run / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (run / "plan.json").write_text(json.dumps(PLAN))
    write_run_page(data, run)
    drawn = (run / "data.html").read_text()
    assert "Pieces per word" in drawn and "Plan of an epoch" in drawn and "Data of run" in drawn


def test_bars_show_all_values() -> None:
    histogram = Histogram(EDGES["seconds"])
    for value in [*[1.05] * 300, *[1.15] * 100, 59.0]:
        histogram.add(value)
    first, last, step = bar_window([histogram])
    assert EDGES["seconds"][first] <= 1.05
    assert EDGES["seconds"][last] < 5, "one long utterance does not squeeze the bars"
    drawn = histogram_chart(histogram, "title", "s")
    counts = [int(part.split("<")[0]) for part in drawn.split(" s: ")[1:]]
    assert step == 1 and counts == [300, 101]


def test_bars_and_strips_scale() -> None:
    drawn = part_bars([("a", {"train": 3.0, "dev": 1.0}), ("b", {"train": 1.0})], "h")
    widths = [float(part.split('"')[1]) for part in drawn.split(" width=")[1:]]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01) and widths[1] == widths[2]
    histogram = Histogram(EDGES["snr"])
    for value in range(0, 60):
        histogram.add(value + 0.5)
    drawn = strips([("a", histogram)], "snr", "dB", [10.0, 99.0])
    assert drawn.count('class="limit"') == 1 and "flagged beyond 10 dB" in drawn
    assert strips([("a", Histogram(EDGES["snr"]))], "snr", "dB") == ""


def test_number_formats() -> None:
    assert [number(v) for v in (0, 0.123, 9.999, 12.34, 1234.5)] == ["0", "0.12", "10.0", "12.3", "1,234"]
