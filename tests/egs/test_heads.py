"""egs/heads: splits and joined sentences of the corpus for punctuation, phonemes, counts of marks."""

import random
from typing import Any

import numpy as np
import pytest

from egs.heads import heads, written
from egs.heads.evaluate import mark_counts
from maya.heads import HeadContext, UnitCTCConfig
from maya.text.phonemes import is_installed, pronounce


def rows(texts: int, speakers: int, readings: int = 1) -> list[dict[str, Any]]:
    return [
        {"id": f"{t}-{r}", "text": f"sentence {t}.", "speaker": f"s{(t + r) % speakers}", "language": "en"}
        for t in range(texts)
        for r in range(readings)
    ]


@pytest.mark.parametrize(("speakers", "readings"), [(1, 1), (8, 1), (8, 4)])
def test_no_text_and_no_speaker_is_in_two_parts(speakers: int, readings: int) -> None:
    splits = written.divided(rows(80, speakers, readings), random.Random(1))
    texts = {name: {row["text"] for row in own} for name, own in splits.items()}
    people = {name: {row["speaker"] for row in own} for name, own in splits.items()}
    assert all(len(own) >= 3 for own in splits.values()) and not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"] and not texts["dev"] & texts["test"]
    assert speakers == 1 or not people["test"] & (people["train"] | people["dev"])


def test_sentences_are_joined_of_one_speaker() -> None:
    plan = list(written.joined("en", "train", rows(40, 2), random.Random(1)))
    assert {len(item["rows"]) for item in plan} == {1, 2, 3} and len(plan) == 40
    for item in plan:
        assert len({row["speaker"] for row in item["rows"]}) == 1
        assert len({row["text"] for row in item["rows"]}) == len(item["rows"])


def test_marks_are_counted() -> None:
    counts = mark_counts(["", ",", ".", "?", ","], [",", ",", "?", "", ","], (",", ".", "?"))
    assert np.array_equal(counts, [[2, 0, 1], [0, 1, 0], [0, 1, 1]])


def test_experiments_of_one_encoder_fit_one_another() -> None:
    first, then, check = heads.phonemes(), heads.punctuation(), heads.check()
    assert first.model.encoder == then.model.encoder and first.model.features == then.model.features
    assert check.train.freeze == ("encoder", "transducer", "ctc") and check.model.heads["ctc"].weight == 0


@pytest.mark.skipif(not is_installed(), reason="eSpeak NG is not installed")
@pytest.mark.parametrize(
    "text", ["zero one two three four five six seven eight nine", "The quick brown fox!"]
)
def test_english_is_made_of_the_units(text: str) -> None:
    units = UnitCTCConfig(units=heads.PHONEMES)
    head = units.build(HeadContext(dim=4, labels=3, blank=3))
    assert len(head.ids(pronounce(text, "en"))) >= len(pronounce(text, "en").split())
