"""Measures of pitch and of events with times, against hand-made cases and formulas written out."""

import math

import numpy as np
import pytest

from maya.errors import MayaError
from maya.score.labels import LabelledUtterance, label_page, score_label, score_numbers
from maya.score.resampling import of_sums
from maya.score.tracks import (
    auc_interval,
    event_counts,
    pitch_counts,
    roc_auc,
    score_events,
    score_pitch,
)


def test_pitch_measures_of_octaves_and_voicing() -> None:
    reference = np.array([100.0, 100.0, 100.0, 100.0, 0.0, 0.0])
    estimate = np.array([102.0, 200.0, 130.0, 0.0, 90.0, 0.0])
    scores = score_pitch([pitch_counts(reference, estimate)])
    values = {name: own.value for name, own in scores.items()}
    assert values["rpa"] == 1 / 4 and values["rca"] == 2 / 4  # 102 is near, 200 is an octave off
    assert values["recall"] == 3 / 4 and values["false_alarm"] == 1 / 2
    assert values["gpe"] == 2 / 3 and values["vde"] == 2 / 6 and values["ffe"] == 4 / 6
    said = np.array([True, True, False, False, False, False])
    own = {k: v.value for k, v in score_pitch([pitch_counts(reference, estimate, said)]).items()}
    assert own["rpa"] == 1 / 4 and own["recall"] == 2 / 4 and own["false_alarm"] == 0
    assert math.isnan(scores["rpa"].interval.low)


def test_fifty_cents_are_the_limit() -> None:
    reference = np.full(3, 200.0)
    estimate = 200 * 2 ** (np.array([49.0, 51.0, -49.0]) / 1200)
    assert pitch_counts(reference, estimate)["near"] == 2


def test_pitch_at_other_times_is_refused() -> None:
    with pytest.raises(MayaError, match="bring both to the same times"):
        pitch_counts(np.zeros(3), np.zeros(4))


def test_events_are_matched_by_their_start() -> None:
    reference = [("a", 0.5, 0.9), ("a", 1.0, 1.2), ("b", 0.5, 0.6)]
    hits = [("a", 0.69, 0.9), ("a", 0.72, 0.9), ("b", 0.9, 1.0), ("c", 0.0, 1.0)]
    counts = event_counts(reference, hits, ("a", "b"))
    assert counts.tolist() == [[1, 1, 1], [0, 1, 1]]
    scores = score_events([counts, counts])
    assert scores["precision"].value == 1 / 3 and scores["recall"].value == 1 / 3
    assert scores["f1"].value == pytest.approx(1 / 3) and scores["macro_f1"].value == pytest.approx(0.25)
    assert 0 <= scores["f1"].interval.low <= scores["f1"].value <= scores["f1"].interval.high


def test_auc() -> None:
    assert roc_auc([1, 2, 3], [4, 5]) == 1 and roc_auc([1, 2], [1, 2]) == 0.5
    assert math.isnan(roc_auc([], [1]))
    rng = np.random.default_rng(0)
    bounds = auc_interval(rng.normal(0, 1, 200).tolist(), rng.normal(1, 1, 200).tolist())
    assert bounds.low < 0.76 < bounds.high and bounds.high - bounds.low < 0.12


def test_the_interval_of_sums_is_that_of_a_share() -> None:
    rows = np.array([[i % 10 < 7, 1.0] for i in range(400)])
    value, bounds = of_sums(rows, lambda sums: sums[:, 0] / sums[:, 1])
    assert value == pytest.approx(0.7)
    assert bounds.low == pytest.approx(0.655, abs=0.01) and bounds.high == pytest.approx(0.745, abs=0.01)
    _, by_speaker = of_sums(rows, lambda s: s[:, 0] / s[:, 1], blocks=[i % 10 for i in range(400)])
    assert by_speaker.high - by_speaker.low > 3 * (bounds.high - bounds.low)


def rows_of(*pairs: tuple[str, str]) -> list[LabelledUtterance]:
    return [LabelledUtterance(id=str(i), value=v, predicted=p) for i, (v, p) in enumerate(pairs)]


def test_f1_and_confusion() -> None:
    report = score_label("mood", rows_of(("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), ("b", "c")))
    assert report.predicted == ["a", "b", "c"] and report.confusion.tolist() == [[2, 1, 0], [0, 1, 1]]
    a, b = 4 / 5, 2 / 4
    assert report.macro_f1 == pytest.approx((a + b) / 2)
    assert report.weighted_f1 == pytest.approx((3 * a + 2 * b) / 5)
    html = label_page([report], "run <1>")
    assert "run &lt;1&gt;" in html and "as c %" in html and "<td>67</td>" in html


def test_numbers_are_scored_by_concordance() -> None:
    pairs = [(x, x + 1) for x in (1.0, 2.0, 3.0, 4.0)]
    report = score_numbers("arousal", rows_of(*[(str(a), str(b)) for a, b in pairs]))
    assert report.ccc == pytest.approx(2 * 1.25 / (2.5 + 1)) and report.error == 1.0
    with pytest.raises(MayaError, match="predicted as a number"):
        score_numbers("arousal", rows_of(("high", "1")))
