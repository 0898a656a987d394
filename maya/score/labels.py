"""Predicted labels, such as an emotion: recall by class, UAR, F1 and confusion; and agreement of numbers."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.pages import columns, escaped, html_table, page
from maya.score.report import percent, span
from maya.score.resampling import of_sums
from maya.score.tracks import f1
from maya.score.wer import REPLICATES, ErrorStats, Interval, interval, macro_average


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledUtterance:
    """The true and the predicted value of one label. speaker: for intervals over speakers. is_number: whether
    the label is a number and no class."""

    id: str
    value: str
    predicted: str
    speaker: str | None = None
    is_number: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """The accuracy of one class (its recall), a fraction, and its 95 % interval."""

    name: str
    utterances: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """The accuracy of one label. classes: sorted by name. pooled: over all utterances. macro: the mean of the
    classes' accuracies, also called UAR. weighted_f1, macro_f1: the mean of the classes' F1, by their
    utterances and evenly. confusion: (classes, predicted) utterances; predicted: the names of its columns,
    the classes and what else was predicted."""

    label: str
    classes: list[ClassAccuracy]
    pooled: ClassAccuracy
    macro: float
    macro_interval: Interval
    weighted_f1: float
    weighted_f1_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    confusion: NDArray[np.int64]
    predicted: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberReport:
    """How well numbers were predicted. ccc: Lin's concordance over all utterances. error: mean distance."""

    label: str
    utterances: int
    ccc: float
    interval: Interval
    error: float


def score_label(
    label: str, utterances: Sequence[LabelledUtterance], *, by_speaker: bool = False,
    replicates: int = REPLICATES, seed: int = 0,
) -> LabelReport:  # fmt: skip
    """The accuracy of a label for one or more utterances. by_speaker: the bootstrap draws speakers instead of
    utterances; an utterance without a speaker counts as a speaker of its own."""
    names = sorted({u.value for u in utterances})
    groups = {name: [u for u in utterances if u.value == name] for name in names}
    stats = {name: _errors(group) for name, group in groups.items()}
    blocks = {name: _speakers(group) for name, group in groups.items()} if by_speaker else None

    def accuracy(name: str, group: Sequence[LabelledUtterance], errors: ErrorStats) -> ClassAccuracy:
        drawn = _speakers(group) if by_speaker else None
        bounds = interval(errors, blocks=drawn, replicates=replicates, seed=seed)
        return ClassAccuracy(
            name=name, utterances=len(group), accuracy=1 - errors.rate, interval=_complement(bounds)
        )

    error, bounds = macro_average(stats, blocks=blocks, replicates=replicates, seed=seed)
    speakers = _speakers(utterances) if by_speaker else None
    predicted = [*names, *sorted({u.predicted for u in utterances} - set(names))]
    confusion = np.zeros((len(names), len(predicted)), np.int64)
    for u in utterances:
        confusion[names.index(u.value), predicted.index(u.predicted)] += 1
    options: dict[str, Any] = {"blocks": speakers, "replicates": replicates, "seed": seed}
    rows = _counts(names, utterances)
    weighted = of_sums(rows, _weighted_f1, **options)
    even = of_sums(rows, _macro_f1, **options)
    return LabelReport(
        label=label,
        classes=[accuracy(name, groups[name], stats[name]) for name in names],
        pooled=accuracy("all", utterances, _errors(utterances)),
        macro=1 - error,
        macro_interval=_complement(bounds),
        weighted_f1=weighted[0],
        weighted_f1_interval=weighted[1],
        macro_f1=even[0],
        macro_f1_interval=even[1],
        confusion=confusion,
        predicted=predicted,
    )


def score_numbers(
    label: str, utterances: Sequence[LabelledUtterance], *, by_speaker: bool = False, seed: int = 0
) -> NumberReport:
    """The agreement of a label that is a number. Raises MayaError for a value that is none."""
    try:
        x, y = np.array([(float(u.value), float(u.predicted)) for u in utterances]).T
    except ValueError as wrong:
        raise MayaError(
            f"the label {label} is predicted as a number, and its values are not: {wrong}"
        ) from None

    def concordance(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        n, sx, sy, xx, yy, xy = sums.T
        mx, my = sx / n, sy / n
        spread = xx / n - mx**2 + yy / n - my**2 + (mx - my) ** 2
        return 2 * (xy / n - mx * my) / np.maximum(spread, 1e-12)

    rows = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)
    blocks = _speakers(utterances) if by_speaker else None
    value, bounds = of_sums(rows, concordance, blocks=blocks, seed=seed)
    error = float(np.abs(x - y).mean())
    return NumberReport(label=label, utterances=len(x), ccc=value, interval=bounds, error=error)


def _counts(names: Sequence[str], utterances: Sequence[LabelledUtterance]) -> NDArray[np.float64]:
    """(n, classes · 3) what each utterance adds to hits, missed and invented of each class."""
    rows = np.zeros((len(utterances), len(names), 3))
    place = {name: number for number, name in enumerate(names)}
    for row, u in zip(rows, utterances, strict=True):
        row[place[u.value], int(u.predicted != u.value)] = 1
        if u.predicted != u.value and u.predicted in place:
            row[place[u.predicted], 2] = 1
    return rows.reshape(len(rows), -1)


def _weighted_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    hits, missed, invented = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    return (f1(hits, missed, invented) * (hits + missed)).sum(1) / (hits + missed).sum(1)


def _macro_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    hits, missed, invented = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    occurs = hits + missed > 0
    return np.where(occurs, f1(hits, missed, invented), 0.0).sum(1) / occurs.sum(1)


def label_table(report: LabelReport) -> str:
    """The accuracies as text for a terminal, a line for each class."""
    rows = [[report.label, "utts", "accuracy %", "95 % interval", ""]]
    for row in (*report.classes, report.pooled):
        rows.append([row.name, str(row.utterances), percent(row.accuracy), span(row.interval), ""])
    macro = (percent(report.macro), span(report.macro_interval))
    rows.append(["macro average", "", *macro, ""])
    rows.append(["weighted F1", "", percent(report.weighted_f1), span(report.weighted_f1_interval), ""])
    rows.append(["macro F1", "", percent(report.macro_f1), span(report.macro_f1_interval), ""])
    return "\n".join(columns(rows))


def label_result(report: LabelReport) -> dict[str, Any]:
    """The accuracies as JSON values: fractions, or null for an interval that cannot be computed."""
    return {
        "accuracy": report.macro,
        "accuracy_interval": _pair(report.macro_interval),
        "weighted_f1": report.weighted_f1,
        "weighted_f1_interval": _pair(report.weighted_f1_interval),
        "macro_f1": report.macro_f1,
        "macro_f1_interval": _pair(report.macro_f1_interval),
        "predicted": report.predicted,
        "confusion": report.confusion.tolist(),
        "pooled": _values(report.pooled),
        "classes": {row.name: _values(row) for row in report.classes},
    }


def number_table(report: NumberReport) -> str:
    """The agreement as text for a terminal."""
    head = [report.label, "utts", "CCC", "95 % interval", "mean distance"]
    bounds = f"[{report.interval.low:.3f}, {report.interval.high:.3f}]"
    row = ["", str(report.utterances), f"{report.ccc:.3f}", bounds, f"{report.error:.3f}"]
    return "\n".join(columns([head, row]))


def number_result(report: NumberReport) -> dict[str, Any]:
    """The agreement as JSON values."""
    bounds = _pair(report.interval)
    return {"ccc": report.ccc, "ccc_interval": bounds, "error": report.error, "utterances": report.utterances}


def label_page(reports: Sequence[LabelReport], title: str) -> str:
    """An HTML page: for each label the confusion matrix, in shares of the true class, recall and F1."""
    parts = []
    for report in reports:
        macro = f"{percent(report.macro)} % {span(report.macro_interval)}"
        weighted = f"{percent(report.weighted_f1)} % {span(report.weighted_f1_interval)}"
        parts.append(f"<h2>{escaped(report.label)}</h2><p>UAR <b>{macro}</b>, weighted F1 {weighted}.</p>")
        rows = []
        for row, own in zip(report.confusion, report.classes, strict=True):
            shares = [f"{100 * n / max(1, row.sum()):.0f}" if n else "" for n in row]
            rows.append([own.name, own.utterances, percent(own.accuracy), span(own.interval), *shares])
        head = [
            "true class",
            "utterances",
            "recall %",
            "95 %",
            *(f"as {name} %" for name in report.predicted),
        ]
        parts.append(html_table(head, rows))
    return page(title, [*parts, '<p class="note">Intervals: 95 %, bootstrap.</p>'])


def _errors(utterances: Sequence[LabelledUtterance]) -> ErrorStats:
    """One reference token for each utterance: its class."""
    counts = np.zeros((len(utterances), 4), np.int64)
    counts[:, 0] = [u.predicted != u.value for u in utterances]
    counts[:, 3] = 1
    return ErrorStats(counts=counts)


def _speakers(utterances: Sequence[LabelledUtterance]) -> list[Hashable]:
    return [u.speaker or ("utterance", u.id) for u in utterances]


def _complement(errors: Interval) -> Interval:
    """The interval of an accuracy from that of the error rate."""
    return Interval(low=1 - errors.high, high=1 - errors.low)


def _values(row: ClassAccuracy) -> dict[str, Any]:
    return {"utterances": row.utterances, "accuracy": row.accuracy, "interval": _pair(row.interval)}


def _pair(bounds: Interval) -> list[float] | None:
    return [bounds.low, bounds.high] if math.isfinite(bounds.low) else None
