"""Error rates of verification against plain definitions, trial lists, normalisation and calibration."""

from pathlib import Path

import numpy as np
import pytest

from maya.errors import MayaError
from maya.score.verification import (
    VerificationTrial,
    as_norm,
    calibrated,
    calibration_cost,
    equal_error,
    error_curve,
    least_cost,
    quality_measures,
    read_trials,
    verification_differences,
    verification_rates,
    write_trials,
)


def scored(n: int = 300, gap: float = 1.0, steps: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    same = rng.random(n) < 0.3
    scores = rng.normal(size=n) + gap * same
    return (np.round(scores * steps) / steps if steps else scores), same


@pytest.mark.parametrize("steps", [0, 3])  # 3: many equal scores
def test_curve_equals_counts_at_every_threshold(steps: int) -> None:
    scores, same = scored(steps=steps)
    curve = error_curve(scores, same)
    assert list(curve.thresholds) == [*sorted(set(scores)), np.inf]
    for threshold, miss, alarm in zip(curve.thresholds, curve.misses, curve.false_alarms, strict=True):
        assert miss == pytest.approx((scores[same] < threshold).mean())
        assert alarm == pytest.approx((scores[~same] >= threshold).mean())
    for prior in (0.01, 0.05):
        costs = curve.misses * prior + curve.false_alarms * (1 - prior)
        assert least_cost(curve, prior) == pytest.approx(costs.min() / prior)


def test_known_values() -> None:
    same = np.array([True, True, False, False])
    perfect = error_curve(np.array([3.0, 2.0, 1.0, 0.0]), same)
    assert equal_error(perfect) == 0 and least_cost(perfect, 0.01) == 0
    assert equal_error(error_curve(np.array([0.0, 1.0, 2.0, 3.0]), same)) == 1
    assert equal_error(error_curve(np.zeros(4), same)) == pytest.approx(0.5)  # between all and none
    assert least_cost(error_curve(np.zeros(4), same), 0.05) == 1  # the better of always and never
    # One of three targets lies below one of two others: the line from (1/3, 1/2) to (1/3, 0) crosses at 1/3.
    scores, kinds = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True, True])
    assert equal_error(error_curve(scores, kinds)) == pytest.approx(1 / 3)


def test_one_sided_and_broken_trials_are_refused() -> None:
    for kinds, missing in (([True, True], "no nontarget"), ([False, False], "no target")):
        with pytest.raises(MayaError, match=missing):
            error_curve(np.array([0.0, 1.0]), np.array(kinds))
    with pytest.raises(MayaError, match="no number"):
        error_curve(np.array([0.0, np.nan]), np.array([True, False]))


def test_intervals_draw_speakers() -> None:
    scores, same = scored(2000)
    rng = np.random.default_rng(2)
    names = [f"s{n}" for n in rng.integers(20, size=len(scores))]
    pairs = [(a, a if s else f"x{a}") for a, s in zip(names, same, strict=True)]
    rates = verification_rates(scores, same, pairs, replicates=200)
    value, bounds = rates["eer"]
    assert bounds.low < value < bounds.high and value == equal_error(error_curve(scores, same))
    # A weight of two is a trial twice.
    weights = rng.integers(0, 3, size=len(scores)).astype(float)
    often = np.repeat(np.arange(len(scores)), weights.astype(int))
    weighted = error_curve(scores, same, weights)
    assert equal_error(weighted) == pytest.approx(equal_error(error_curve(scores[often], same[often])))
    assert np.isnan(verification_rates(scores, same)["eer"][1].low)


def test_half_a_million_trials_take_a_moment() -> None:
    scores, same = scored(500_000)
    assert 0.3 < equal_error(error_curve(scores, same)) < 0.32  # Φ(−1/2)


def test_normalisation_and_calibration() -> None:
    rng = np.random.default_rng(0)
    raw, enrol, test = rng.normal(size=5), rng.normal(size=(5, 50)), rng.normal(size=(5, 50))
    expected = [
        np.mean([(r - np.sort(c)[-10:].mean()) / np.sort(c)[-10:].std() for c in (e, t)])
        for r, e, t in zip(raw, enrol, test, strict=True)
    ]
    assert as_norm(raw, enrol, test, top=10) == pytest.approx(expected)
    with pytest.raises(MayaError, match="cohort"):
        as_norm(raw, enrol[:, :1], test)
    # Normal scores of equal deviation: the ratio is linear, with slope gap / σ² and its zero in the middle.
    scores, same = scored(200_000, gap=2.0)
    scale = calibrated(scores, same)
    assert scale.slope == pytest.approx(2.0, rel=0.03) and scale.offset == pytest.approx(-2.0, rel=0.03)
    apart = calibrated(np.array([0.0, 0.1, 0.9, 1.0]), np.array([False, False, True, True]))
    assert np.isfinite(apart.slope) and apart(np.array([0.0]))[0] < 0 < apart(np.array([1.0]))[0]


def test_quality_measures_help_where_the_offset_depends_on_duration() -> None:
    rng = np.random.default_rng(1)
    n, same = 20_000, np.arange(20_000) % 2 == 0
    seconds = np.exp(rng.uniform(0, 2, (n, 2)))
    scores = rng.normal(size=n) + 2.0 * same + 3.0 * np.log(seconds.min(1))
    cohort = rng.normal(size=(n, 12))
    table = quality_measures(scores, seconds, np.ones((n, 2)), cohort, cohort, top=5)
    assert table.shape == (n, 7) and np.array_equal(table[:, 1], np.log(seconds).min(1))
    assert np.allclose(table[:, 5], np.sort(cohort, 1)[:, -5:].mean(1))
    plain, full = calibrated(scores, same), calibrated(table, same)
    assert isinstance(full.slope, tuple) and full.slope[0] == pytest.approx(2.0, rel=0.05)
    assert full.slope[1] == pytest.approx(-6.0, rel=0.05)
    costs = [calibration_cost(plain(scores), same), calibration_cost(full(table), same)]
    assert costs[1] < costs[0] - 0.2 < 1 and calibration_cost(np.zeros(n), same) == pytest.approx(1.0)
    errors = [equal_error(error_curve(x, same)) for x in (plain(scores), full(table))]
    assert errors[0] > 0.27 and errors[1] == pytest.approx(0.159, abs=0.01)  # Φ(−1)


def test_difference_of_two_systems_is_drawn_together() -> None:
    scores, same = scored(3000, gap=2.0)
    speakers = [(f"s{n % 20}", f"s{n % 20 if target else (n + 1) % 20}") for n, target in enumerate(same)]
    value, bounds = verification_differences(scores, scores, same, speakers)["eer"]
    assert value == bounds.low == bounds.high == 0.0
    worse = scores + np.random.default_rng(3).normal(size=len(scores))
    value, bounds = verification_differences(worse, scores, same, speakers)["eer"]
    assert 0 < bounds.low < value < bounds.high < 0.15
    assert np.isnan(verification_differences(worse, scores, same)["eer"][1].low)


def test_lists_of_trials(tmp_path: Path) -> None:
    path = tmp_path / "trials.txt"
    path.write_text("1 id1/v/1.wav id1/w/1.wav\n0 id1/v/1.wav id2/v/1.wav\n\n")
    trials = read_trials(path)
    assert [t.same for t in trials] == [True, False] and trials[1].speakers == ("id1", "id2")
    path.write_text("anna a.wav target\nanna b.wav nontarget\n")
    assert read_trials(path)[0] == VerificationTrial(enrol="anna", test="a.wav", same=True)
    named = [VerificationTrial(enrol="a", test="b", same=same, speakers=("x", "y")) for same in (True, False)]
    write_trials(named, path)
    assert read_trials(path) == named
    for text, complaint in (
        ("1 a.wav\n", "trials.txt:1: .* is no trial"), ("2 a b\n", "is no trial"), ("", "holds no trials"),
        ("1 a b\n1 a c\n", "only target trials"), ("0 a b\n", "only nontarget trials"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(MayaError, match=complaint):
            read_trials(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MayaError, match="is no text"):
        read_trials(path)
