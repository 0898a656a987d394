import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from maya.data.measure.entry import Entry
from maya.errors import MayaError
from maya.score.page import (
    ScoredSystem,
    UtteranceDetails,
    read_confidences,
    read_metrics,
    series,
    write_comparison_page,
    write_page,
)
from maya.score.page.audio import clips, link
from maya.score.page.bars import bins
from maya.score.page.facts import LEVELS, operations
from maya.score.report import Utterance, make_report, score_utterances
from maya.score.wer import ErrorStats, words_of
from tests.score.twelve_scripts import details, utterances

VOID = {"meta", "br", "line", "polyline", "circle", "rect", "input"}


class Checker(HTMLParser):
    """Collects tags and the text, and fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def page(tmp_path: Path, rows: list[Utterance], metrics: list[dict[str, object]] | None = None) -> Checker:
    if metrics is not None:
        lines = [json.dumps(m) for m in metrics] + ['{"kind": "train", "st']  # a run killed while writing
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    write_page(
        make_report(rows), tmp_path / "r.html", title="mini <test>", metrics=tmp_path / "metrics.jsonl"
    )
    return checked(tmp_path / "r.html")


def checked(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text())
    assert checker.open == []
    return checker


ROWS = [
    Utterance(id="a", language="hi", ref="एक दो तीन", hyp="एक तो तीन"),
    Utterance(id="b", language="hi", ref="दो दो", hyp="तो दो चार"),
    Utterance(id="c<script>", language="en", ref="<b>bold</b> words", hyp="words"),
]


def test_page_is_valid_escaped_and_self_contained(tmp_path: Path) -> None:
    checker = page(tmp_path, ROWS)
    assert [tag for tag, _ in checker.seen].count("script") == 3  # two of data, one program
    assert not any(tag in ("link", "img", "b><") for tag, _ in checker.seen)
    assert not any(key in ("src", "href") for _, attrs in checker.seen for key in attrs)
    assert not re.search(r"https?://|url\(|@import", (tmp_path / "r.html").read_text())
    facts = json.loads(checker.scripts[0])
    assert "<b>bold</b> words" in facts["ref"] and "c<script>" in facts["id"]
    assert "mini <test>" in checker.text
    assert "Hindi (hi)" in checker.text and "macro average" in checker.text
    assert "Loss by step" not in checker.text  # no metrics.jsonl, no empty chart
    assert "No utterance names its speaker" in checker.text and "WER by length is left out" in checker.text
    assert "no audio is known" in checker.text and "no word confidences" in checker.text


def test_training_curve_is_drawn(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"kind": "train", "step": s, "loss": 5.0 / (s + 1), "lr": 1e-3} for s in range(1000)
    ]
    rows += [{"kind": "valid", "step": s, "loss": 1.0, "wer": 0.5, "cer": None} for s in (500, 1000)]
    checker = page(tmp_path, ROWS, rows)
    lines = [attrs["points"] for tag, attrs in checker.seen if tag == "polyline"]
    assert len(lines) == 3  # train loss, dev loss, WER; no CER was measured
    assert all(line and len(line.split()) <= 400 for line in lines)


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


def test_facts_hold_every_utterance_worst_first(tmp_path: Path) -> None:
    """The columns give back references, hypotheses and errors, in the order of `score_utterances`."""
    rows = utterances(60)
    report = make_report(rows, replicates=20)
    write_page(report, tmp_path / "r.html", title="t", details=details(rows, tmp_path / "audio"))
    facts = json.loads(checked(tmp_path / "r.html").scripts[0])
    scored = score_utterances(report)
    assert facts["id"] == [s.utterance.id for s in scored]
    result = facts["results"][0]
    for i, s in enumerate(scored):
        hyp = result["hyp"][i] or ("" if result["ops"][i] else facts["ref"][i])
        assert words_of(hyp) == words_of(s.utterance.hyp) and facts["ref"][i] == s.utterance.ref
        ops = result["ops"][i] or "=" * len(words_of(s.utterance.ref))
        assert [ops.count(x) for x in "sdi"] == [result[x][i] for x in ("sub", "del", "ins")]
        assert len(ops) == len(s.pairs) and ops == (operations(s.utterance)[1] or ops)
        assert len(result["confidence"][i]) == len(words_of(hyp))
    assert set(facts["clips"]) == set(range(60)) and all(facts["audio"])


def test_confidences_of_words_in_normal_form(tmp_path: Path) -> None:
    """A word that the normal form splits or removes keeps the numbers in step; others are left out."""

    def normal(text: str, language: str) -> str:
        return text.lower().replace("-", " ").replace(",", "")

    def row(id_: str, text: str, *words: tuple[str, float | None]) -> dict[str, object]:
        parts = [{"text": w, "confidence": c} for w, c in words]
        return {"id": id_, "language": "en", "text": text, "words": parts}

    rows = [
        row("a", "Well, twenty-one", ("Well", 0.9), (",", 0.1), ("twenty-one", 0.5)),
        row("b", "other text", ("word", 0.9)),
        row("c", "no numbers", ("no", None), ("numbers", None)),
        row("d", "one of two", ("one", 0.25), ("of", None), ("two", 1.0)),
        {"id": "e", "language": "en", "text": "x"},
    ]
    path = tmp_path / "hyps.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert read_confidences(path, normal) == {"a": (0.9, 0.5, 0.5), "d": (0.25, None, 1.0)}
    u = Utterance(id="d", language="en", ref="one or two", hyp="one of two")
    by_id = {"d": UtteranceDetails(confidences=(0.25, None, 1.0))}
    write_page(make_report([u]), tmp_path / "r.html", title="t", details=by_id)
    facts = json.loads(checked(tmp_path / "r.html").scripts[0])
    assert facts["results"][0]["confidence"] == [LEVELS[15] + "-" + LEVELS[61]]


def entry(file: Path, **changes: object) -> Entry:
    facts = {
        "id": "u", "path": str(file), "offset": None, "size": None, "member": None, "file_size": 1,
        "file_mtime": 1, "sample_rate": 16000, "channels": 1, "num_samples": 8000, "start": None,
        "duration": 0.5,
    }  # fmt: skip
    return Entry(**{**facts, **changes})  # type: ignore[arg-type]


def test_links_only_to_what_a_browser_plays(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "decode"
    file = tmp_path / "audio" / "a #1%.wav"
    assert link(entry(file), folder) == "../../audio/a%20%231%25.wav"
    part = entry(file, num_samples=80_000, start=1.25, duration=2.0)
    assert link(part, folder).endswith(".wav#t=1.250,3.250")
    assert link(entry(file, channels=2, channel=1), folder) == ""
    assert link(entry(tmp_path / "a.tar", offset=512, size=100, member="a.wav"), folder) == ""
    assert link(entry(tmp_path / "a.sph"), folder) == ""
    assert link(entry(file, path="s3://bucket/a.wav"), folder) == ""


def test_clips_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    rows = utterances(3)
    by_id = details(rows, tmp_path, audio=2)
    entries = [by_id[u.id].audio for u in rows]
    entries[1] = entry(tmp_path / "absent.wav")
    assert list(clips((i, e) for i, e in enumerate(entries) if e is not None)) == ["0", "2"]


def test_bins_hold_every_utterance_once() -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(12, 9, 1000),
        np.full(100, 3.0),
        np.arange(60.0),
        rng.integers(0, 3, 200) * 1.0,
    ):
        counts = np.ones((len(values), 4), np.int64)
        values[5] = np.nan
        parts = bins(values, [ErrorStats(counts=counts)], 1, 20)
        assert sum(b.utterances for b in parts) == len(values) - 1
        assert all(a.high == b.low for a, b in zip(parts, parts[1:], strict=False)) or len(parts) <= 3
        assert 1 <= len(parts) <= 8
    assert bins(np.full(4, np.nan), [ErrorStats(counts=np.ones((4, 4), np.int64))], 1) == []


def test_comparison_refuses_other_utterances(tmp_path: Path) -> None:
    first = ScoredSystem(name="a", report=make_report(ROWS), details={})
    other = [*ROWS[:2], Utterance(id="d", language="en", ref="x", hyp="x")]
    changed = [*ROWS[:2], Utterance(id="c<script>", language="en", ref="x", hyp="x")]
    cases = ((other, "other utterances"), (ROWS[:2], "other utterances"), (changed, "references"))
    for rows, message in cases:
        second = ScoredSystem(name="b", report=make_report(rows), details={})
        with pytest.raises(MayaError, match=message):
            write_comparison_page([first, second], tmp_path / "r.html", title="t")
