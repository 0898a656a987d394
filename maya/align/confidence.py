"""How well confidences tell right words from wrong ones, and a calibration that makes them probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.decode.calibration import Curve
from maya.errors import MayaError

Values = NDArray[np.float64]
_BINS = 15
_SMALLEST = 1e-6  # a probability of 0 or 1 that is wrong would cost an infinite amount


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Of the confidences of n words.

    auc: area under the ROC curve with wrong words as the positives: the probability that a wrong word has a
    lower confidence than a right one; nan where all words are right, or all wrong. ece: expected calibration
    error, in 15 bins of equal width (Guo et al. 2017). nce: normalised cross entropy (NIST): 1 is perfect, 0
    is the constant share of right words, and nan where all words are right or wrong.
    """

    words: int
    wrong: int
    auc: float
    ece: float
    nce: float


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> Reliability:
    """confidences (n,) in [0, 1], right (n,): whether each word is right."""
    values, is_right = np.asarray(confidences, np.float64), np.asarray(right, bool)
    return Reliability(
        words=len(values), wrong=int((~is_right).sum()), auc=auc(values, is_right),
        ece=calibration_error(values, is_right), nce=normalised_cross_entropy(values, is_right),
    )  # fmt: skip


def auc(values: Values, is_right: NDArray[np.bool_]) -> float:
    """Mann and Whitney's statistic; equal confidences count half."""
    right, wrong = values[is_right], np.sort(values[~is_right])
    if not len(right) or not len(wrong):
        return math.nan
    below, up_to = (np.searchsorted(wrong, right, side=side) for side in ("left", "right"))
    return float((below + up_to).sum() / (2 * len(right) * len(wrong)))


def calibration_error(values: Values, is_right: NDArray[np.bool_], bins: int = _BINS) -> float:
    """The mean of |share of right words - mean confidence| over bins, weighted by their words; 0 without."""
    places = np.minimum((values * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, weights=is_right - values, minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(values)))


def normalised_cross_entropy(values: Values, is_right: NDArray[np.bool_]) -> float:
    """(H - cross entropy) / H, with the entropy H of the share of right words."""
    share = is_right.mean() if len(is_right) else 0.0
    if share in (0.0, 1.0):
        return math.nan
    clipped = np.clip(values, _SMALLEST, 1 - _SMALLEST)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    cross = -np.where(is_right, np.log(clipped), np.log1p(-clipped)).mean()
    return float((entropy - cross) / entropy)


def isotonic(confidences: Sequence[float], right: Sequence[bool]) -> Curve:
    """The curve, not falling, that fits the share of right words best in least squares (pool adjacent
    violators), with straight lines between the means of its steps.

    Each step counts one word more, of the overall share of right ones, because 20 words without an error do
    not show a probability of 1. Raises MayaError without words.
    """
    if not len(confidences):
        raise MayaError("no words to calibrate confidences on")
    order = np.argsort(np.asarray(confidences, np.float64), kind="stable")
    values, is_right = np.asarray(confidences, np.float64)[order], np.asarray(right, np.float64)[order]
    steps: list[list[float]] = []  # words, right ones, sum of the confidences
    for value, hit in zip(values.tolist(), is_right.tolist(), strict=True):
        if steps and value * steps[-1][0] == steps[-1][2]:  # equal confidences are one step
            steps[-1] = [steps[-1][0] + 1, steps[-1][1] + hit, steps[-1][2] + value]
        else:
            steps.append([1.0, hit, value])
        while len(steps) > 1 and steps[-2][1] * steps[-1][0] >= steps[-1][1] * steps[-2][0]:
            last = steps.pop()
            steps[-1] = [a + b for a, b in zip(steps[-1], last, strict=True)]
    share = float(is_right.mean())
    x = [total / count for count, _, total in steps]
    y = [(hits + share) / (count + 1) for count, hits, _ in steps]
    return Curve(tuple(x), tuple(np.maximum.accumulate(y).tolist()))


def cross_fitted(confidences: Sequence[float], right: Sequence[bool], groups: Sequence[str]) -> list[float]:
    """Calibrated confidences of words, each by the curve of the other half of the groups (utterances), so
    that no word judges a curve that was fitted to it."""
    names = sorted(set(groups))
    half = {name: i % 2 for i, name in enumerate(names)}
    calibrated = list(confidences)
    for side in (0, 1):
        fit = [i for i, name in enumerate(groups) if half[name] != side]
        if not fit:
            continue
        curve = isotonic([confidences[i] for i in fit], [right[i] for i in fit])
        for i, name in enumerate(groups):
            if half[name] == side:
                calibrated[i] = curve(confidences[i])
    return calibrated
