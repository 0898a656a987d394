"""Which heads a training trains: by the schedule, by the notes of a checkpoint, and said at the start."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from maya.errors import MayaError
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.hybrid import hybrid
from maya.models.speech_model import SpeechModel
from maya.models.text_heads import HEADS, heads_of
from maya.train import schedule
from maya.train.checkpoint import Checkpoint
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
from tests import tiny


def weights(cfg: TrainConfig, model: SpeechModelConfig, step: int) -> dict[str, float]:
    """Each head's weight in the loss of a step, as `SpeechModel.losses` composes it."""
    share = schedule.ctc_weight(cfg, step, full=model.ctc_weight) if model.transducer != "none" else 1.0
    rest = 1 - model.attention_weight
    return {"transducer": (1 - share) * rest, "ctc": share * rest, "attention": model.attention_weight}


@pytest.mark.parametrize("transducer", ["tdt", "pruned", "none"])
def test_steps_of_heads_are_those_that_give_them_weight(transducer: Any) -> None:
    schedules = [TrainConfig(), TrainConfig(ctc_first=5), TrainConfig(ctc_ramp=5), TrainConfig(ctc_ramp=1)]
    for ctc, attention in itertools.product((0.0, 0.3, 1.0), (0.0, 0.4, 1.0)):
        model = hybrid(transducer=transducer, ctc_weight=ctc, attention_weight=attention)
        for cfg in schedules:
            if (cfg.ctc_first or cfg.ctc_ramp) and not ctc:
                continue  # refused by maya.train.config.check
            for step in range(9):
                expected = {
                    head: sum(weights(cfg, model, s)[head] > 0 for s in range(step))
                    for head in heads_of(model)
                }
                assert schedule.head_steps(cfg, step, model) == expected, (cfg, ctc, attention, step)


def model_of(**settings: Any) -> SpeechModel:
    cfg = with_vocabulary(tiny.experiment().model, 12, ("en", "hi"))
    for name, value in settings.items():
        setattr(cfg, name, value)
    return SpeechModel(cfg)


def test_heads_trained_at_the_start_stay_trained() -> None:
    model, cfg = model_of(), TrainConfig(ctc_first=5)
    assert trained_heads(cfg, model, 5) == ("ctc",)
    assert trained_heads(cfg, model, 6) == ("transducer", "ctc")
    assert [s for s in range(9) if begins(cfg, model, s, "transducer")] == [5]
    assert [s for s in range(9) if begins(cfg, model, s, "ctc")] == [0]
    model.initial_heads = ("transducer",)
    assert trained_heads(cfg, model, 0) == ("transducer",)
    assert trained_heads(cfg, model, 1) == ("transducer", "ctc")
    assert not any(begins(cfg, model, s, head) for s in range(9) for head in ("transducer", None))


@pytest.mark.parametrize(
    ("model", "train", "sentences"),
    [
        ({}, {}, []),
        ({}, {"ctc_first": 20}, ["the transducer .* ends after 12 steps and train.ctc_first=20 .*above 20"]),
        ({}, {"ctc_first": 12}, ["train.ctc_first below 12"]),
        ({}, {"ctc_first": 11}, []),
        ({"ctc_weight": 1.0}, {}, ["the transducer .*model.ctc_weight=1 leaves it no weight"]),
        ({"attention_weight": 1.0}, {"ctc_first": 20},
         ["the transducer .*attention_weight=1", "the CTC head .*attention_weight=1 leaves it no weight"]),
        ({"transducer": "none"}, {"ctc_first": 20}, []),
        ({"ctc_weight": 0.0}, {}, []),
    ],
)  # fmt: skip
def test_heads_that_will_not_be_trained_are_named(model: Any, train: Any, sentences: list[str]) -> None:
    lines = check_heads_begin(TrainConfig(**train), model_of(**model), 12)
    assert len(lines) == len(sentences)
    for line, expected in zip(lines, sentences, strict=True):
        assert re.search(expected, line), line


def test_a_ramp_that_never_begins_and_steps_that_train_nothing() -> None:
    model = model_of()
    assert "train.ctc_ramp gives it no weight in 1 steps" in check_heads_begin(
        TrainConfig(ctc_ramp=5), model, 1
    )[0]  # fmt: skip
    with pytest.raises(MayaError, match="0 steps train no head of this model: raise train.steps"):
        check_heads_begin(TrainConfig(), model, 0)
    model.initial_heads = ("transducer",)
    assert check_heads_begin(TrainConfig(ctc_first=20), model, 12) == []


def test_samples_are_written_by_a_trained_head() -> None:
    both: Any = ("transducer", "ctc")
    dev: Any = {"transducer": {"wer": 0.9, "cer": 0.9}, "ctc": {"wer": 0.2, "cer": 0.1}}
    assert head_to_show((), None, {}) is None  # a speech LLM has no such heads
    assert head_to_show(both, None, {}) == "transducer"
    assert head_to_show(both, None, dev) == "ctc"
    assert head_to_show(both, "transducer", dev) == "transducer"
    assert head_to_show(("ctc",), "transducer", dev) == "ctc"  # not trained yet


def checkpoint(notes: dict[str, Any], step: int = 9, **more: Any) -> Checkpoint:
    cfg = tiny.experiment().model
    return Checkpoint(model_config=cfg, tokenizer=None, weights={}, step=step, notes=notes, **more)  # type: ignore[arg-type]


def test_notes_are_read_back() -> None:
    scores = {"loss": 1.0, "error": 0.1, "ctc_wer": 0.3, "ctc_cer": 0.1, "ctc_wer_hi": 0.4}
    assert scores_by_head(scores) == {"ctc": {"wer": 0.3, "cer": 0.1}}
    notes = head_notes(TrainConfig(ctc_first=20), model_of(), 9, scores)
    assert notes["trained"] == ["ctc"]
    assert notes["heads"] == {"transducer": {"steps": 0}, "ctc": {"steps": 9, "wer": 0.3, "cer": 0.1}}
    heads = read_heads(checkpoint(notes))
    assert heads.heads == ("transducer", "ctc") and heads.trained == ("ctc",)
    assert heads.dev == {"ctc": {"wer": 0.3, "cer": 0.1}}
    assert noted_steps(checkpoint(notes)) == {"transducer": {"steps": 0}, "ctc": {"steps": 9}}
    assert noted_steps(checkpoint({})) == {"transducer": {}, "ctc": {}}


@pytest.mark.parametrize(
    ("notes", "trained"),
    [
        ({"untrained": []}, ("transducer", "ctc")),  # converted whole
        ({"untrained": ["decoder", "joint", "ctc_decoder"]}, ()),  # --encoder-only
        ({"untrained": ["joint"]}, ("ctc",)),
        ({}, ("transducer", "ctc")),
    ],
)
def test_converted_models(notes: dict, trained: tuple) -> None:
    assert read_heads(checkpoint(notes)).trained == trained


@pytest.mark.parametrize(
    ("step", "train", "trained"),
    [
        (20, {"ctc_first": 20}, ("ctc",)),
        (21, {"ctc_first": 20}, ("transducer", "ctc")),
        (9, {}, ("transducer", "ctc")),
        (9, {"ctc_first": 20, "init_from": "x", "init_modules": ["encoder", "decoder", "joint"]}, HEADS[:2]),
        (9, {"ctc_first": 20, "init_from": "", "init_modules": ["encoder", "decoder", "joint"]}, ("ctc",)),
    ],
)
def test_training_checkpoints_of_earlier_versions(step: int, train: dict, trained: tuple) -> None:
    saved = {"experiment": {"train": train}}
    assert read_heads(checkpoint({"experiment": "x"}, step, training=saved)).trained == trained


def test_a_config_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{broken")
    for path in (tmp_path / "best.pt", tmp_path / "checkpoints" / "step-0000009.pt", tmp_path / "x" / "a.pt"):
        assert read_heads(checkpoint({}), path).trained == ("transducer", "ctc")
    (tmp_path / "config.json").write_text('{"train": {"ctc_first": 20, "of_another_version": 1}}')
    for path in (tmp_path / "best.pt", tmp_path / "checkpoints" / "step-0000009.pt"):
        assert read_heads(checkpoint({}), path).trained == ("ctc",)
