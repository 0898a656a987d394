"""The heads that a run trains: by schedule, by the notes of a checkpoint, and in the first messages."""

import itertools
import re
from typing import Any

import pytest

from maya.errors import MayaError
from maya.models.hybrid import hybrid
from maya.models.speech_model import SpeechModel
from maya.train.checkpoints.checkpoint import Checkpoint
from maya.train.config import TrainConfig
from maya.train.heads import (
    begins,
    check_heads_begin,
    head_notes,
    head_to_show,
    noted_steps,
    read_heads,
    scores_by_head,
    trained_heads,
)
from maya.train.optimizers import schedule
from tests import tiny


@pytest.mark.parametrize("transducer", ["tdt", "pruned", "none"])
def test_head_steps_count_steps_with_weight(transducer: Any) -> None:
    schedules = [{}, {"ctc_first": 5}, {"ctc_ramp": 5}, {"ctc_ramp": 1}]
    freezes = [{}, {"freeze": ("ctc",), "freeze_steps": 3}, {"freeze": ("ctc",)}]
    for ctc, attention in itertools.product((0.0, 0.3, 1.0), (0.0, 0.4, 1.0)):
        for schedule_, freeze in itertools.product(schedules, freezes):
            options = {"transducer": transducer, "ctc_weight": ctc, "attention_weight": attention}
            heads, cfg = hybrid(**options, **schedule_).heads, TrainConfig(**freeze)
            for step in range(9):
                expected = {
                    head: sum(
                        heads[head].weight_at(s) > 0 and head not in schedule.frozen(cfg, s)
                        for s in range(step)
                    )
                    for head in heads
                }
                assert schedule.head_steps(cfg, step, heads) == expected, (schedule_, freeze, options, step)


def model_of(**settings: Any) -> SpeechModel:
    return SpeechModel(tiny.hybrid(**settings))


def test_heads_trained_at_the_start_stay_trained() -> None:
    model, cfg = model_of(ctc_first=5), TrainConfig()
    assert trained_heads(cfg, model, 5) == ("ctc",)
    assert trained_heads(cfg, model, 6) == ("transducer", "ctc")
    assert [s for s in range(9) if begins(cfg, model, s, "transducer")] == [5]
    assert [s for s in range(9) if begins(cfg, model, s, "ctc")] == [0]
    model.initial_heads = ("transducer",)
    assert trained_heads(cfg, model, 0) == ("transducer",)
    assert trained_heads(cfg, model, 1) == ("transducer", "ctc")
    assert not any(begins(cfg, model, s, head) for s in range(9) for head in ("transducer", None))


@pytest.mark.parametrize(
    ("model", "sentences"),
    [
        ({}, []),
        ({"ctc_first": 20}, ["head transducer .* 12 steps and .*transducer.first_step is 20.*above 20"]),
        ({"ctc_first": 12}, ["model.heads.transducer.first_step below 12"]),
        ({"ctc_first": 11}, []),
        ({"ctc_weight": 1.0}, ["head transducer .*model.heads.transducer.weight is 0; raise it"]),
        ({"attention_weight": 1.0, "ctc_first": 20},
         ["head transducer .*heads.transducer.weight is 0", "head ctc .*heads.ctc.weight is 0"]),
        ({"transducer": "none", "ctc_first": 20}, []),
        ({"ctc_weight": 0.0}, []),
    ],
)  # fmt: skip
def test_heads_that_never_get_weight_are_reported(model: Any, sentences: list[str]) -> None:
    lines = check_heads_begin(TrainConfig(), model_of(**model), 12)
    assert len(lines) == len(sentences)
    for line, expected in zip(lines, sentences, strict=True):
        assert re.search(expected, line), line


def test_ramp_without_steps_and_training_without_steps() -> None:
    (line,) = check_heads_begin(TrainConfig(), model_of(ctc_ramp=5), 1)
    assert "model.heads.ctc.ramp_steps gives it no weight in 1 steps" in line
    with pytest.raises(MayaError, match="0 steps train no head of this model: raise train.steps"):
        check_heads_begin(TrainConfig(), model_of(), 0)
    model = model_of(ctc_first=20)
    model.initial_heads = ("transducer",)
    assert check_heads_begin(TrainConfig(), model, 12) == []
    assert check_heads_begin(TrainConfig(freeze=("ctc",)), model_of(), 12) == []  # by intention


def test_samples_use_a_trained_head() -> None:
    model, both = model_of(language_id_weight=0.2), ("transducer", "ctc")
    dev: Any = {"transducer": {"wer": 0.9, "cer": 0.9}, "ctc": {"wer": 0.2, "cer": 0.1}}
    assert head_to_show(model, (), None, {}) == ""
    assert head_to_show(model, both, None, {}) == "transducer"
    assert head_to_show(model, (*both, "language"), None, dev) == "ctc"
    assert head_to_show(model, both, "transducer", dev) == "transducer"
    assert head_to_show(model, ("ctc",), "transducer", dev) == "ctc"  # not trained yet
    assert head_to_show(model, ("language",), None, {"language": {"accuracy": 0.5}}) == "language"


def checkpoint(notes: dict[str, Any], step: int = 9, **fields: Any) -> Checkpoint:
    cfg = tiny.experiment().model
    return Checkpoint(model_config=cfg, tokenizer=None, weights={}, step=step, notes=notes, **fields)  # type: ignore[arg-type]


def test_notes_round_trip() -> None:
    scores = {
        "loss": 1.0,
        "error": 0.1,
        "ctc_wer": 0.3,
        "ctc_cer": 0.1,
        "ctc_wer_hi": 0.4,
        "mood_accuracy": 0.7,
    }
    by_head = {"ctc": {"wer": 0.3, "cer": 0.1}, "mood": {"accuracy": 0.7}}
    assert scores_by_head(scores, ("transducer", "ctc", "mood")) == by_head
    notes = head_notes(TrainConfig(), model_of(ctc_first=20), 9, scores)
    assert notes["trained"] == ["ctc"]
    assert notes["heads"] == {"transducer": {"steps": 0}, "ctc": {"steps": 9, "wer": 0.3, "cer": 0.1}}
    heads = read_heads(checkpoint(notes))
    assert heads.heads == ("transducer", "ctc") and heads.trained == ("ctc",)
    assert heads.dev == {"ctc": {"wer": 0.3, "cer": 0.1}}
    assert noted_steps(checkpoint(notes)) == {"transducer": 0, "ctc": 9}
    assert noted_steps(checkpoint({})) == {}


@pytest.mark.parametrize(
    ("notes", "trained"),
    [
        ({"untrained": []}, ("transducer", "ctc")),  # converted whole
        ({"untrained": ["transducer", "ctc"]}, ()),  # --encoder-only
        ({"untrained": ["transducer"]}, ("ctc",)),
        ({}, ("transducer", "ctc")),
    ],
)
def test_heads_of_converted_models(notes: dict, trained: tuple) -> None:
    assert read_heads(checkpoint(notes)).trained == trained
