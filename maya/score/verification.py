"""Is this the voice of that speaker? Error rates of scored trials, their normalisation and calibration.

A trial is a pair of recordings, or a speaker and a recording; a target trial is of one speaker. All measures
sort the scores once: O(n log n).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.files import writing
from maya.score.wer import REPLICATES, Interval

Scores = NDArray[np.float64]
_TARGET = {"1": True, "0": False, "target": True, "nontarget": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationTrial:
    """enrol, test: paths of recordings, or names of speakers. same: whether one speaker is in both. speakers:
    of the two sides, ("", "") where a list does not say."""

    enrol: str
    test: str
    same: bool
    speakers: tuple[str, str] = ("", "")


def read_trials(path: Path) -> list[VerificationTrial]:
    """VoxCeleb's `1 ENROL TEST` or Kaldi's `ENROL TEST target`, a trial a line; two more fields may name the
    speakers. Of VoxCeleb's paths the first folder (id10270/VIDEO/00001.wav) is the speaker. Raises MayaError
    for other lines, and for a list of one kind of trials only."""
    if not path.is_file():
        raise MayaError(f"there is no list of trials {path}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise MayaError(f"{path} is no text: a list of trials has lines such as '1 a.wav b.wav'") from None
    trials = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        first = words[0] in _TARGET
        if len(words) not in (3, 5) or (not first and words[2] not in _TARGET):
            raise MayaError(
                f"{path}:{number}: '{line[:60]}' is no trial: write '1 ENROL TEST' or 'ENROL TEST target'"
            )
        enrol, test = words[1:3] if first else words[:2]
        who = (words[3], words[4]) if len(words) == 5 else (_speaker(enrol), _speaker(test))
        same = _TARGET[words[0] if first else words[2]]
        trials.append(VerificationTrial(enrol=enrol, test=test, same=same, speakers=who))
    if len({trial.same for trial in trials}) < 2:
        kinds = "no trials" if not trials else f"only {'' if trials[0].same else 'non'}target trials"
        raise MayaError(f"{path} holds {kinds}: error rates need trials of one speaker, and of two")
    return trials


def write_trials(trials: Sequence[VerificationTrial], path: Path) -> None:
    """VoxCeleb's form, with the speakers as two more fields where they are known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [" ".join(filter(None, [str(int(t.same)), t.enrol, t.test, *t.speakers])) + "\n" for t in trials]
    with writing(path) as partial:
        partial.write_text("".join(rows), encoding="utf-8")


def _speaker(name: str) -> str:
    folders = name.split("/")
    return folders[0] if len(folders) == 3 else ""


@dataclass(frozen=True, slots=True)
class ErrorCurve:
    """thresholds (m,) rising; misses, false_alarms (m,): shares of the targets below, and of the nontargets
    at or above each. The last threshold is inf."""

    thresholds: Scores
    misses: Scores
    false_alarms: Scores


def error_curve(scores: Scores, same: NDArray[np.bool_], weights: Scores | None = None) -> ErrorCurve:
    """Of scores (n,), higher for the same speaker, with `weights` (n,) or each once. Equal scores are one
    threshold. Raises MayaError without target or without nontarget trials, and for scores that are NaN."""
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if np.isnan(scores).any():
        raise MayaError("a trial has a score that is no number: are the recordings silent?")
    return _curve(*_sorted(scores, same), np.ones(len(scores)) if weights is None else np.asarray(weights))


def _sorted(scores: Scores, same: NDArray[np.bool_]) -> tuple[Scores, NDArray[np.bool_], NDArray[np.intp]]:
    order = np.argsort(scores, kind="stable")
    return scores[order], same[order], order


def _curve(scores: Scores, same: NDArray[np.bool_], order: NDArray[np.intp], weights: Scores) -> ErrorCurve:
    weights = weights[order]
    targets, others = weights * same, weights * ~same
    if not targets.sum() or not others.sum():
        kind = "target" if not targets.sum() else "nontarget"
        raise MayaError(f"there are no {kind} trials: error rates need trials of one speaker, and of two")
    begins = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]]) if len(scores) else np.zeros(0, int)
    below = np.r_[0.0, np.cumsum(targets)], np.r_[0.0, np.cumsum(others)]
    places = np.r_[begins, len(scores)]
    return ErrorCurve(
        np.r_[scores[begins], np.inf], below[0][places] / below[0][-1], 1 - below[1][places] / below[1][-1]
    )


def equal_error(curve: ErrorCurve) -> float:
    """Where misses and false alarms cross, by a line between the two thresholds around the crossing."""
    gap = curve.misses - curve.false_alarms
    after = int(np.argmax(gap >= 0))
    if after == 0:
        return float(curve.misses[0])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(curve.misses[after - 1] + share * (curve.misses[after] - curve.misses[after - 1]))


def least_cost(curve: ErrorCurve, prior: float, miss: float = 1.0, false_alarm: float = 1.0) -> float:
    """minDCF: the least of miss · P_miss · prior + false_alarm · P_fa · (1 − prior), divided by what the
    better of always and never costs. prior: of target trials, NIST's 0.01 or VoxSRC's 0.05."""
    costs = miss * curve.misses * prior + false_alarm * curve.false_alarms * (1 - prior)
    return float(costs.min() / min(miss * prior, false_alarm * (1 - prior)))


MEASURES: dict[str, Callable[[ErrorCurve], float]] = {
    "eer": equal_error,
    "dcf01": lambda curve: least_cost(curve, 0.01),
    "dcf05": lambda curve: least_cost(curve, 0.05),
}


def verification_rates(
    scores: Scores, same: NDArray[np.bool_], speakers: Sequence[tuple[str, str]] | None = None,
    replicates: int = REPLICATES // 2, seed: int = 0,
) -> dict[str, tuple[float, Interval]]:  # fmt: skip
    """Each of MEASURES with its 95 % interval. The bootstrap draws speakers: a trial counts as often as its
    speakers were drawn, times each other for two speakers. Without their names the interval is NaN."""
    values = _measures(error_curve(scores, same))
    return _with_intervals(values, _replicates([scores], same, speakers, replicates, seed)[:, 0])


def verification_differences(
    first: Scores, second: Scores, same: NDArray[np.bool_],
    speakers: Sequence[tuple[str, str]] | None = None, replicates: int = REPLICATES // 2, seed: int = 0,
) -> dict[str, tuple[float, Interval]]:  # fmt: skip
    """Each of MEASURES of the first scores less that of the second, of the same trials, with the interval of
    the difference: both are drawn together. Otherwise as `verification_rates`."""
    values = _measures(error_curve(first, same)) - _measures(error_curve(second, same))
    drawn = _replicates([first, second], same, speakers, replicates, seed)
    return _with_intervals(values, drawn[:, 0] - drawn[:, 1])


def _measures(curve: ErrorCurve) -> Scores:
    return np.array([measure(curve) for measure in MEASURES.values()])


def _replicates(
    systems: Sequence[Scores], same: NDArray[np.bool_], speakers: Sequence[tuple[str, str]] | None,
    replicates: int, seed: int,
) -> Scores:  # fmt: skip
    """(r, systems, measures) of r draws of the speakers; r is 0 without their names."""
    same, drawn = np.asarray(same, bool), []
    if speakers is not None and all(a and b for a, b in speakers):
        names = {name: n for n, name in enumerate(dict.fromkeys(name for pair in speakers for name in pair))}
        first, second = (np.array([names[pair[side]] for pair in speakers]) for side in (0, 1))
        rng = np.random.default_rng(seed)
        ordered = [_sorted(np.asarray(scores, np.float64), same) for scores in systems]
        for _ in range(replicates):
            times = rng.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(np.float64)
            weights = times[first] * np.where(first == second, 1.0, times[second])
            if weights[same].any() and weights[~same].any():
                drawn.append([_measures(_curve(*own, weights)) for own in ordered])
    return np.array(drawn).reshape(-1, len(systems), len(MEASURES))


def _with_intervals(values: Scores, drawn: Scores) -> dict[str, tuple[float, Interval]]:
    """values (measures,), drawn (r, measures)."""
    bounds = np.percentile(drawn, [2.5, 97.5], axis=0) if len(drawn) else np.full((2, len(values)), np.nan)
    return {
        name: (float(value), Interval(low=float(low), high=float(high)))
        for name, value, low, high in zip(MEASURES, values, *bounds, strict=True)
    }


def as_norm(raw: Scores, enrol: Scores, test: Scores, top: int = 300) -> Scores:
    """Adaptive symmetric normalisation (Matějka et al. 2017): raw (n,); enrol, test (n, c) scores of each
    side with a cohort of speakers. The mean of (s − μ) / σ over both sides, with μ and σ of the `top` highest
    scores of a side."""
    sides = []
    for cohort in (enrol, test):
        highest = _highest(cohort, top)
        sides.append((raw - highest.mean(1)) / np.maximum(highest.std(1), 1e-9))
    return (sides[0] + sides[1]) / 2


def _highest(cohort: Scores, top: int) -> Scores:
    kept = min(top, cohort.shape[1])
    if kept < 2:
        raise MayaError("score normalisation needs a cohort of two speakers or more")
    return np.partition(cohort, cohort.shape[1] - kept, axis=1)[:, -kept:]


def quality_measures(
    scores: Scores, seconds: Scores, magnitudes: Scores, enrol: Scores, test: Scores, top: int = 300
) -> Scores:
    """(n, 7) for `calibrated`: the score, and the smaller and the larger of both sides' log durations,
    magnitudes of embeddings, and means of the `top` highest scores with a cohort (Thienpondt et al. 2021,
    arXiv:2010.11255). seconds, magnitudes: (n, 2), of both sides. enrol, test: as in `as_norm`."""
    means = np.stack([_highest(cohort, top).mean(1) for cohort in (enrol, test)], 1)
    sides = [np.sort(x, 1) for x in (np.log(np.maximum(seconds, 1e-3)), magnitudes, means)]
    return np.concatenate([np.asarray(scores, np.float64)[:, None], *sides], 1)


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """Log-likelihood ratio of a score: slope · score + offset. slope: of scores (n, k) one for each column.
    cohort: whether it is of scores that were normalised by a cohort."""

    slope: float | tuple[float, ...]
    offset: float
    cohort: bool = False

    def __call__(self, scores: Scores) -> Scores:
        """scores (n,), or (n, k) → (n,)."""
        table = np.asarray(scores, np.float64)
        return (table @ np.array(self.slope) if table.ndim == 2 else table * self.slope) + self.offset


def calibrated(scores: Scores, same: NDArray[np.bool_], prior: float = 0.5) -> ScoreCalibration:
    """Logistic regression on trials of known answer, from scores (n,) or `quality_measures` (n, k); both
    kinds of trials count in the proportion of `prior`. Newton's method with a small ridge, so that scores
    without any overlap have a finite slope."""
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    table = scores.reshape(len(scores), -1)
    for column in table.T:
        error_curve(column, same)
    centre, spread = table.mean(0), np.maximum(table.std(0), 1e-9)
    x = np.concatenate([(table - centre) / spread, np.ones((len(table), 1))], 1)
    weights = np.where(same, prior / same.sum(), (1 - prior) / (~same).sum())
    bias, w = np.log(prior / (1 - prior)), np.zeros(x.shape[1])
    ridge = np.diag([1e-4] * table.shape[1] + [0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w + bias, -50, 50)))
        slope = x.T @ (weights * (p - same)) + ridge @ w
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + ridge + 1e-12 * np.eye(len(w))
        step = np.linalg.solve(curvature, slope)
        w -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    slopes = w[:-1] / spread
    offset = float(w[-1] - slopes @ centre)
    return ScoreCalibration(float(slopes[0]) if scores.ndim == 1 else tuple(slopes.tolist()), offset)


def calibration_cost(ratios: Scores, same: NDArray[np.bool_]) -> float:
    """Cllr (Brümmer and du Preez 2006) in bits: 0 for certain and right log-likelihood ratios (n,), 1 for
    those that say nothing."""
    targets, others = np.logaddexp(0, -ratios[same]).mean(), np.logaddexp(0, ratios[~same]).mean()
    return float((targets + others) / (2 * np.log(2)))
