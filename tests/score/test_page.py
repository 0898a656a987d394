import json
import re
from html.parser import HTMLParser
from pathlib import Path

from maya.score.page import confusions, read_metrics, series, write_page
from maya.score.report import Utterance, make_report, score_utterances

VOID = {"meta", "br", "line", "polyline", "circle"}


class Checker(HTMLParser):
    """Collects tags and the text, and fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(tmp_path: Path, rows: list[Utterance], metrics: list[dict[str, object]] | None = None) -> Checker:
    if metrics is not None:
        lines = [json.dumps(m) for m in metrics] + ['{"kind": "train", "st']  # a run killed while writing
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    write_page(
        make_report(rows), tmp_path / "r.html", title="mini <test>", metrics=tmp_path / "metrics.jsonl"
    )
    checker = Checker()
    checker.feed((tmp_path / "r.html").read_text())
    assert checker.open == []
    return checker


ROWS = [
    Utterance(id="a", language="hi", ref="एक दो तीन", hyp="एक तो तीन"),
    Utterance(id="b", language="hi", ref="दो दो", hyp="तो दो चार"),
    Utterance(id="c<script>", language="en", ref="<b>bold</b> words", hyp="words"),
]


def test_page_is_valid_escaped_and_self_contained(tmp_path: Path) -> None:
    checker = page(tmp_path, ROWS)
    assert not any(tag in ("script", "link", "img", "b><") for tag, _ in checker.seen)
    assert not any(key in ("src", "href") for _, attrs in checker.seen for key in attrs)
    assert not re.search(r"https?://|url\(|@import", (tmp_path / "r.html").read_text())
    assert "<b>bold</b>" in checker.text and "c<script>" in checker.text and "mini <test>" in checker.text
    assert "Hindi (hi)" in checker.text and "macro average" in checker.text
    assert "svg" not in [tag for tag, _ in checker.seen]  # no metrics.jsonl, no empty chart


def test_training_curve_is_drawn(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"kind": "train", "step": s, "loss": 5.0 / (s + 1), "lr": 1e-3} for s in range(1000)
    ]
    rows += [{"kind": "valid", "step": s, "loss": 1.0, "wer": 0.5, "cer": None} for s in (500, 1000)]
    checker = page(tmp_path, ROWS, rows)
    lines = [attrs["points"] for tag, attrs in checker.seen if tag == "polyline"]
    assert len(lines) == 3  # train loss, dev loss, WER; no CER was measured
    assert all(line and len(line.split()) <= 400 for line in lines)


def test_confusions() -> None:
    counts = confusions(score_utterances(make_report(ROWS[:2])))
    assert counts[("दो", "तो")] == 2
    assert counts[("", "चार")] == 1
    assert len(counts) == 2


def test_metrics_of_an_interrupted_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"kind": "train", "step": 1, "loss": 2.0}\n{"kind": "train", "step": 2, "loss": NaN}\n'
        '{"kind": "valid", "step": 2, "wer": 0.5}\n{"kind": "train", "step": 3, "lo'
    )
    rows = read_metrics(path)
    assert len(rows) == 3
    assert series(rows, "train", "loss") == [(1.0, 2.0)]
    assert series(rows, "valid", "wer") == [(2.0, 0.5)]
    assert read_metrics(tmp_path / "absent.jsonl") == []
