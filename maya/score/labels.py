"""Accuracy of predicted labels, such as the language or an emotion: by class and averaged, with intervals."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maya.pages import columns
from maya.score.report import percent, span
from maya.score.wer import REPLICATES, ErrorStats, Interval, interval, macro_average


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledUtterance:
    """The true and the predicted value of one label. speaker: for intervals over speakers."""

    id: str
    value: str
    predicted: str
    speaker: str | None = None


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
    classes' accuracies."""

    label: str
    classes: list[ClassAccuracy]
    pooled: ClassAccuracy
    macro: float
    macro_interval: Interval


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
    return LabelReport(
        label=label,
        classes=[accuracy(name, groups[name], stats[name]) for name in names],
        pooled=accuracy("all", utterances, _errors(utterances)),
        macro=1 - error,
        macro_interval=_complement(bounds),
    )


def label_table(report: LabelReport) -> str:
    """The accuracies as text for a terminal, a line for each class."""
    rows = [[report.label, "utts", "accuracy %", "95 % interval", ""]]
    for row in (*report.classes, report.pooled):
        rows.append([row.name, str(row.utterances), percent(row.accuracy), span(row.interval), ""])
    macro = (percent(report.macro), span(report.macro_interval))
    rows.append(["macro average", "", *macro, ""])
    return "\n".join(columns(rows))


def label_result(report: LabelReport) -> dict[str, Any]:
    """The accuracies as JSON values: fractions, or null for an interval that cannot be computed."""
    return {
        "accuracy": report.macro,
        "accuracy_interval": _pair(report.macro_interval),
        "pooled": _values(report.pooled),
        "classes": {row.name: _values(row) for row in report.classes},
    }


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
