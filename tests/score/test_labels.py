"""Accuracy of predicted labels, by class and averaged."""

import numpy as np
import pytest

from maya.score.labels import LabelledUtterance, label_result, label_table, score_label


def utterances(*pairs: tuple[str, str, int]) -> list[LabelledUtterance]:
    rows = [(value, predicted) for value, predicted, count in pairs for _ in range(count)]
    return [
        LabelledUtterance(id=str(i), value=v, predicted=p, speaker=f"s{i % 4}")
        for i, (v, p) in enumerate(rows)
    ]


def test_classes_are_averaged_and_utterances_pooled() -> None:
    report = score_label("mood", utterances(("a", "a", 3), ("a", "b", 1), ("b", "b", 10), ("b", "a", 30)))
    assert [(c.name, c.utterances, c.accuracy) for c in report.classes] == [("a", 4, 0.75), ("b", 40, 0.25)]
    assert report.macro == 0.5 and report.pooled.accuracy == pytest.approx(13 / 44)
    for row in (*report.classes, report.pooled):
        assert 0 <= row.interval.low <= row.accuracy <= row.interval.high <= 1
    assert report.macro_interval.low < 0.5 < report.macro_interval.high
    lines = label_table(report).splitlines()
    assert lines[0].split() == ["mood", "utts", "accuracy", "%", "95", "%", "interval"]
    assert lines[1].split()[:3] == ["a", "4", "75.00"] and lines[-3].split()[:3] == [
        "macro",
        "average",
        "50.00",
    ]
    result = label_result(report)
    assert result["accuracy"] == 0.5 and result["classes"]["b"]["accuracy"] == 0.25


def test_the_interval_is_the_bootstrap_of_the_share() -> None:
    report = score_label("mood", utterances(("a", "a", 70), ("a", "b", 30)))
    drawn = np.random.default_rng(1).binomial(100, 0.7, 100_000) / 100
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert report.pooled.interval.low == pytest.approx(low, abs=0.015)
    assert report.pooled.interval.high == pytest.approx(high, abs=0.015)


def test_intervals_over_speakers_are_wider_where_speakers_differ() -> None:
    rows = [
        LabelledUtterance(id=str(i), value="a", predicted="a" if i % 4 else "b", speaker=f"s{i % 4}")
        for i in range(200)
    ]
    plain, by_speaker = (score_label("mood", rows, by_speaker=b).pooled.interval for b in (False, True))
    assert by_speaker.high - by_speaker.low > 2 * (plain.high - plain.low)


def test_a_single_utterance_has_no_interval() -> None:
    result = label_result(score_label("mood", utterances(("a", "b", 1))))
    assert result["accuracy"] == 0.0 and result["accuracy_interval"] is None
