"""A prepared training set as a whole: token ids of its texts, and how often the values of a label occur."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

BIGRAM_TEXTS = 1_000_000  # enough for the bigram of a few thousand tokens


def training_texts(
    data: Path, tokenizer: Tokenizer, *, at_most: int = 0
) -> Callable[[], Iterator[tuple[str, list[int]]]]:
    """A function that gives language and token ids of each text of `data`/train.parquet; with `at_most`, of
    every second, third ... so that there are not many more than twice as many."""

    def texts() -> Iterator[tuple[str, list[int]]]:
        table = Table.open(part_path(data, "train"))
        every = max(1, len(table) // at_most) if at_most else 1
        for language, text in itertools.islice(table.read("language", "text"), None, None, every):
            yield language, tokenizer.encode(text, language)

    return texts


def bigram_texts(data: Path | None, tokenizer: Tokenizer) -> Callable[[], Iterator[list[int]]]:
    """The token ids of the training texts, for `mmi_share`; see `maya.heads.TrainingMeans`."""

    def texts() -> Iterator[list[int]]:
        if data is None:
            raise MayaError(
                "the bigram of mmi_share is estimated from the texts of a folder that `maya prepare` wrote: "
                "give --data, or set mmi_share to 0"
            )
        for _, ids in training_texts(data, tokenizer, at_most=BIGRAM_TEXTS)():
            yield ids

    return texts


def label_counts(data: Path | None) -> Callable[[str], Mapping[str, int]]:
    """How many training utterances have each value of a label, for `class_weights`; see
    `maya.heads.TrainingMeans`."""

    def counts(label: str) -> Mapping[str, int]:
        if data is None:
            raise MayaError(
                "balanced class weights are counted in a folder that `maya prepare` wrote: give --data, or "
                "set the head's class_weights=none"
            )
        table = Table.open(part_path(data, "train"))
        if label in ("language", "speaker"):
            return Counter(value for (value,) in table.read(label) if value is not None)
        return Counter(labels[label] for (labels,) in table.read("labels") if labels.get(label) is not None)

    return counts
