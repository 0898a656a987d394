"""Reliability measures against their definitions, and isotonic regression against exhaustive search."""

import itertools
import math

import numpy as np
import pytest

from maya.align.confidence import auc, cross_fitted, isotonic, normalised_cross_entropy, reliability
from maya.errors import MayaError


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    values, right = rng.integers(0, 6, 40) / 6, rng.random(40) < 0.7
    pairs = [(a > b) + 0.5 * (a == b) for a in values[right] for b in values[~right]]
    assert auc(values, right) == pytest.approx(np.mean(pairs))
    assert math.isnan(reliability([0.5, 0.6], [True, True]).auc)


def test_error_and_entropy_of_known_cases() -> None:
    perfect = reliability([1.0, 1.0, 0.0], [True, True, False])
    assert (perfect.auc, perfect.ece) == (1.0, 0.0) and perfect.nce == pytest.approx(1, abs=1e-4)
    constant = reliability([0.75] * 4, [True, True, True, False])
    assert constant.auc == 0.5 and constant.ece == pytest.approx(0) and constant.nce == pytest.approx(0)
    overconfident = reliability([0.9] * 10, [True] * 5 + [False] * 5)
    assert overconfident.ece == pytest.approx(0.4) and overconfident.nce < 0
    assert (overconfident.words, overconfident.wrong) == (10, 5)
    # In bits or in nats it is the same ratio.
    share, value = 0.5, 0.9
    cross = -(share * math.log2(value) + (1 - share) * math.log2(1 - value))
    assert overconfident.nce == pytest.approx(1 - cross)
    assert math.isnan(normalised_cross_entropy(np.ones(3), np.ones(3, bool)))


@pytest.mark.parametrize("seed", range(20))
def test_isotonic_regression_is_the_best_ascending_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, right = np.sort(rng.permutation(100)[:7]) / 100, rng.random(7) < 0.6
    curve = isotonic(values, right)  # type: ignore[arg-type]
    # Exhaustive: all partitions into runs, each of its mean, that ascend.
    best, steps = math.inf, []
    for cuts in itertools.product((False, True), repeat=6):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 7]
        runs = [right[a:b] for a, b in itertools.pairwise(edges)]
        means = [run.mean() for run in runs]
        error = sum(((run - run.mean()) ** 2).sum() for run in runs)
        if means == sorted(means) and (error, len(runs)) < (best - 1e-12, 99):
            best, steps = error, list(itertools.pairwise(edges))
    assert list(curve.x) == pytest.approx([values[a:b].mean() for a, b in steps])
    share = right.mean()
    y = [(right[a:b].sum() + share) / (b - a + 1) for a, b in steps]
    assert list(curve.y) == pytest.approx(np.maximum.accumulate(y))


def test_calibration_mends_overconfidence() -> None:
    rng = np.random.default_rng(0)
    truth = rng.beta(4, 1, 6000)
    right, raw = rng.random(6000) < truth, 1 - (1 - truth) ** 3  # claims more than it keeps
    groups = [str(i // 5) for i in range(6000)]
    before = reliability(raw, right)  # type: ignore[arg-type]
    after = reliability(cross_fitted(raw.tolist(), right.tolist(), groups), right)  # type: ignore[arg-type]
    assert before.ece > 0.1 and after.ece < 0.02
    assert after.nce > 0 > before.nce and after.auc == pytest.approx(before.auc, abs=0.01)
    curve = isotonic(raw, right)  # type: ignore[arg-type]
    fine = [curve(x) for x in np.linspace(0, 1, 1001)]
    assert fine == sorted(fine) and fine[0] > 0 and fine[-1] < 1


def test_nothing_to_calibrate_is_refused() -> None:
    with pytest.raises(MayaError, match="no words"):
        isotonic([], [])
