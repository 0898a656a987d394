"""What the measures of egs.heads share: the test set, counts of marks, and how results are shown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.data.loading.batch import Batch
from maya.data.loading.loader import EvalLoader
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.recognizer import Recognizer
from maya.score.report import percent, span
from maya.score.tracks import TrackMeasure


def test_batches(recognizer: Recognizer, data: Path) -> Iterator[Batch]:
    """The test set, a few utterances at a time."""
    yield from batches_of(recognizer, data, "test", recognizer.model.cfg.languages)


def batches_of(recognizer: Recognizer, data: Path, part: str, languages: tuple[str, ...]) -> Iterator[Batch]:
    """A part of the data, such as train, a few utterances at a time. languages: those of `Batch.langs`."""
    table = Table.open(part_path(data, part))
    utterances = Utterances.from_table(table, recognizer.tokenizer, languages)
    yield from EvalLoader(
        utterances,
        recognizer.tokenizer,
        languages,
        sample_rate=recognizer.sample_rate,
        max_seconds=60.0,
    )


def shown(title: str, scores: dict[str, TrackMeasure]) -> dict[str, Any]:
    """Print measures in %; returns them as fractions."""
    cells = [f"{name} {percent(m.value)} {span(m.interval)}" for name, m in scores.items()]
    print(f"{title}: {', '.join(cells)}")
    return {name: [m.value, m.interval.low, m.interval.high] for name, m in scores.items()}


def mark_counts(true: Sequence[str], said: Sequence[str], marks: Sequence[str]) -> NDArray[np.int64]:
    """(marks, 3) how often each mark was found, missed and invented."""
    table = np.zeros((len(marks), 3), np.int64)
    for a, b in zip(true, said, strict=True):
        if a in marks:
            table[marks.index(a), 0 if a == b else 1] += 1
        if b in marks and a != b:
            table[marks.index(b), 2] += 1
    return table
