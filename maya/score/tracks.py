"""Measures of tracks: pitch (RPA, RCA, GPE, VDE, FFE) and events with times (F1).

Pitch follows mir_eval (Raffel et al. 2014) where music has a convention; GPE and FFE are of Chu & Alwan 2009.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.align.confidence import auc
from maya.errors import MayaError
from maya.score.resampling import of_sums
from maya.score.wer import Interval

WITHIN_CENTS = 50.0
GROSS = 0.2  # a frequency that is off by more than this share is a gross error
ONSET_SECONDS = 0.2  # by which the start of an event may be off
Frames = NDArray[np.floating]
PITCH_MEASURES = {
    # name: (what is counted, of what)
    "rpa": ("near", "voiced"), "rca": ("near_octave", "voiced"), "gpe": ("gross", "both"),
    "vde": ("wrong_voicing", "frames"), "ffe": ("wrong", "frames"), "recall": ("both", "voiced"),
    "false_alarm": ("false_voiced", "unvoiced"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackMeasure:
    """A measure, a fraction, and its 95 % interval."""

    name: str
    value: float
    interval: Interval


def pitch_counts(
    reference: Frames, estimate: Frames, voiced: NDArray[np.bool_] | None = None
) -> dict[str, int]:
    """What the measures of one utterance count. reference: (n,) Hz at each time, 0 where unvoiced; estimate:
    (n,) Hz at the same times; voiced: (n,) whether the estimate says so, by default where it is above 0.

    A frequency counts where the reference is voiced, whatever the estimate says of voicing.
    """
    if reference.shape != estimate.shape:
        raise MayaError(
            f"a pitch of {len(estimate)} values cannot be compared with {len(reference)}: bring both to the "
            "same times first"
        )
    ref_voiced = reference > 0
    est_voiced = (estimate > 0) if voiced is None else voiced
    compared = ref_voiced & (estimate > 0)
    cents = np.zeros(len(reference))
    cents[compared] = 1200 * np.log2(estimate[compared] / reference[compared])
    octave = cents - 1200 * np.round(cents / 1200)
    both = ref_voiced & est_voiced
    gross = both & (np.abs(estimate - reference) > GROSS * reference)
    wrong_voicing = ref_voiced != est_voiced
    counted = {
        "frames": np.ones(len(reference), bool), "voiced": ref_voiced, "unvoiced": ~ref_voiced, "both": both,
        "near": compared & (np.abs(cents) <= WITHIN_CENTS),
        "near_octave": compared & (np.abs(octave) <= WITHIN_CENTS),
        "gross": gross, "wrong_voicing": wrong_voicing, "wrong": wrong_voicing | gross,
        "false_voiced": ~ref_voiced & est_voiced,
    }  # fmt: skip
    return {name: int(mask.sum()) for name, mask in counted.items()}


def score_pitch(
    utterances: Sequence[dict[str, int]], *, blocks: Sequence[Hashable] | None = None, seed: int = 0
) -> dict[str, TrackMeasure]:
    """The measures of PITCH_MEASURES over all frames of utterances counted by `pitch_counts`.

    rpa, rca: share of voiced frames within 50 cents, and after folding octaves. gpe: share of the frames
    voiced in both that are off by more than 20 %. vde: frames of wrong voicing. ffe: frames with either
    error. recall, false_alarm: of voicing. blocks: speakers, for the intervals.
    """
    if not utterances:
        raise MayaError("there is no utterance with a pitch to score")
    names = list(utterances[0])
    rows = np.array([[own[name] for name in names] for own in utterances], np.float64)
    results = {}
    for name, (part, whole) in PITCH_MEASURES.items():
        columns = rows[:, [names.index(part), names.index(whole)]]
        value, bounds = of_sums(columns, lambda sums: sums[:, 0] / sums[:, 1], blocks=blocks, seed=seed)
        results[name] = TrackMeasure(name=name, value=value, interval=bounds)
    return results


Spans = Sequence[tuple[str, float, float]]  # class, start and end in seconds


def event_counts(reference: Spans, detected: Spans, classes: Sequence[str]) -> NDArray[np.int64]:
    """(classes, 3) events found, missed and invented in one utterance. An event is found where one of its
    class begins within 200 ms of it; each counts once, the nearest pairs first."""
    counts = np.zeros((len(classes), 3), np.int64)
    for row, name in zip(counts, classes, strict=True):
        true = [start for own, start, _ in reference if own == name]
        said = [start for own, start, _ in detected if own == name]
        pairs = sorted((abs(t - s), i, j) for i, t in enumerate(true) for j, s in enumerate(said))
        used_true, used_said = set[int](), set[int]()
        for distance, i, j in pairs:
            if distance <= ONSET_SECONDS and i not in used_true and j not in used_said:
                used_true.add(i)
                used_said.add(j)
        row[:] = len(used_true), len(true) - len(used_true), len(said) - len(used_said)
    return counts


def score_events(
    utterances: Sequence[NDArray[np.int64]], *, blocks: Sequence[Hashable] | None = None, seed: int = 0
) -> dict[str, TrackMeasure]:
    """precision, recall and f1 over all events, and macro_f1, the mean over classes that occur, of utterances
    counted by `event_counts`."""
    if not utterances:
        raise MayaError("there is no utterance with events to score")
    rows = np.stack(utterances).reshape(len(utterances), -1).astype(np.float64)

    def pooled(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums.reshape(len(sums), -1, 3).sum(1)

    def macro(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        hits, missed, invented = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
        occurs = hits + missed > 0
        return (np.where(occurs, f1(hits, missed, invented), 0.0)).sum(1) / occurs.sum(1)

    measures = {
        "precision": lambda sums: pooled(sums)[:, 0] / pooled(sums)[:, [0, 2]].sum(1),
        "recall": lambda sums: pooled(sums)[:, 0] / pooled(sums)[:, :2].sum(1),
        "f1": lambda sums: f1(*pooled(sums).T),
        "macro_f1": macro,
    }
    results = {}
    for name, measure in measures.items():
        value, bounds = of_sums(rows, measure, blocks=blocks, seed=seed)
        results[name] = TrackMeasure(name=name, value=value, interval=bounds)
    return results


def f1(hits: Frames, missed: Frames, invented: Frames) -> Frames:
    """2·found / (2·hits + missed + invented), elementwise; 0 where nothing is."""
    whole = 2 * hits + missed + invented
    return np.divide(2 * hits, whole, out=np.zeros_like(whole, dtype=np.float64), where=whole > 0)


def roc_auc(negative: Sequence[float] | Frames, positive: Sequence[float] | Frames) -> float:
    """The probability that a positive has a higher score than a negative, ties counted as half; NaN without
    one of either."""
    if not len(negative) or not len(positive):
        return float("nan")
    values = -np.concatenate([np.asarray(negative, np.float64), np.asarray(positive, np.float64)])
    return auc(values, np.arange(len(values)) < len(negative))


def auc_interval(
    negative: Sequence[float], positive: Sequence[float], *, replicates: int = 1000, seed: int = 0
) -> Interval:
    """The 95 % bootstrap interval of `roc_auc`; both sides are drawn by themselves."""
    rng, a, b = np.random.default_rng(seed), np.asarray(negative), np.asarray(positive)
    if len(a) < 2 or len(b) < 2:
        return Interval(low=float("nan"), high=float("nan"))
    draws = [roc_auc(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(replicates)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))
