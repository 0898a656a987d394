"""Measures of phonemes: errors weighed by articulation, agreement with human scores, fused systems."""

import importlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.score.resampling import of_sums
from maya.score.wer import ErrorStats, Interval, count_errors

# Written so that panphon knows them; it would leave these letters out.
_SPELT = str.maketrans({"ɚ": "ə˞", "ɝ": "ɜ˞", "ᵻ": "ɨ"})

Units = Sequence[str]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArticulatoryErrors:
    """sums: (utterances, 2) edit distance in articulatory features, and segments of the reference. rate: all
    distances / all segments. unknown: units that panphon does not know and leaves out, in both texts."""

    sums: Floats
    rate: float
    interval: Interval
    unknown: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Pearson's and Spearman's correlation, with 95 % intervals; NaN where a side does not vary."""

    pearson: float
    pearson_interval: Interval
    spearman: float
    spearman_interval: Interval


def phoneme_errors(refs: Sequence[Units], hyps: Sequence[Units]) -> ErrorStats:
    """Substitutions, deletions and insertions of units; the rate of all is PER."""
    return count_errors(map(" ".join, refs), map(" ".join, hyps), str.split)


def articulatory_errors(
    refs: Sequence[Units], hyps: Sequence[Units], *, blocks: Sequence[Hashable] | None = None
) -> ArticulatoryErrors:
    """The feature edit distance of panphon (Mortensen et al. 2016) between IPA units: a substitution costs
    half the mean difference of the 24 features, an insertion or deletion about 1. The rate is what panphon
    calls the feature error rate. A diphthong counts as its segments. blocks: speakers, which the interval
    draws. Raises MayaError where panphon is not installed."""
    try:
        distance: Any = importlib.import_module("panphon.distance").Distance()
    except ImportError as error:
        raise MayaError("articulatory distances need pip install 'maya-asr[phonemes]' (panphon)") from error
    table = distance.fm
    rows, unknown = [], 0
    for pair in zip(refs, hyps, strict=True):
        unknown += sum(not table.ipa_segs(unit.translate(_SPELT)) for units in pair for unit in units)
        ref, hyp = ("".join(units).translate(_SPELT) for units in pair)
        rows.append((distance.feature_edit_distance(hyp, ref), len(table.ipa_segs(ref))))
    sums = np.array(rows, np.float64).reshape(-1, 2)
    rate, bounds = of_sums(sums, lambda s: s[:, 0] / s[:, 1], blocks=blocks)
    return ArticulatoryErrors(sums=sums, rate=rate, interval=bounds, unknown=unknown)


def correlation(
    x: Sequence[float], y: Sequence[float], *, blocks: Sequence[Hashable] | None = None
) -> Correlation:
    """Of two lists of numbers. blocks: speakers, which the intervals draw. Ranks are those of the whole
    lists, in every draw; equal numbers share the mean of their ranks."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    pearson, spearman = _pearson(a, b, blocks), _pearson(_ranks(a), _ranks(b), blocks)
    return Correlation(
        pearson=pearson[0], pearson_interval=pearson[1],
        spearman=spearman[0], spearman_interval=spearman[1],
    )  # fmt: skip


def _ranks(x: Floats) -> Floats:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _pearson(x: Floats, y: Floats, blocks: Sequence[Hashable] | None) -> tuple[float, Interval]:
    if not np.ptp(x) or not np.ptp(y):
        return math.nan, Interval(low=math.nan, high=math.nan)
    x, y = x - x.mean(), y - y.mean()  # sums of squares of large numbers lose digits
    rows = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)

    def coefficient(sums: Floats) -> Floats:
        n, sx, sy, xx, yy, xy = sums.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return (n * xy - sx * sy) / np.sqrt((n * xx - sx**2) * (n * yy - sy**2))

    return of_sums(rows, coefficient, blocks=blocks)


def late_fusion(systems: Sequence[Floats], weights: Sequence[float] | None = None) -> Floats:
    """The log-probabilities (S, V) of the weighted mean of several systems' probabilities, of the same units.

    systems: (S_i, V) log-probabilities of one utterance; with fewer steps than the finest they are repeated.
    CTC puts a unit into a step or two, so systems that were trained apart often disagree on the step, and the
    mean then says blank: the vote of `maya.score.rover` does not need steps. Raises MayaError for other
    units.
    """
    if len({system.shape[1] for system in systems}) != 1:
        raise MayaError("late fusion takes systems of the same units; use the vote for others")
    shares = np.ones(len(systems)) if weights is None else np.asarray(weights, np.float64)
    if len(shares) != len(systems) or not (shares >= 0).all() or not shares.sum():
        raise MayaError("late fusion takes a weight of at least 0 for each system, not all of them 0")
    steps = max(len(system) for system in systems)
    total = np.zeros((steps, systems[0].shape[1]))
    for share, system in zip(shares / shares.sum(), systems, strict=True):
        total += share * np.exp(system[np.arange(steps) * len(system) // steps])
    with np.errstate(divide="ignore"):
        return np.log(total)
