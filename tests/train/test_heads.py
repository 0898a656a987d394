"""Heads of one label, of numbers, of frames and of units, trained together through the trainer."""

import json
from pathlib import Path

import numpy as np
import pytest

from maya.heads import ClassifyConfig, EventConfig, PitchConfig, RegressConfig, UnitCTCConfig
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint
from tests import tiny, tones


def experiment() -> Experiment:
    exp = tiny.experiment()
    exp.model.heads = {
        "mood": ClassifyConfig(
            label="emotion", classes=("glad", "sad"), layers="all", pooling="attentive", hidden=8,
            dropout=0.1, class_weights="balanced", crop_seconds=0.2,
        ),
        "arousal": RegressConfig(label="arousal"),
        "sounds": EventConfig(label="sounds", classes=("beep",)),
        "pitch": PitchConfig(upsampling=2),
        "phones": UnitCTCConfig(units=("a", "b"), upsampling=2),
    }  # fmt: skip
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.train.steps, exp.train.valid_every, exp.train.save_every, exp.train.log_every = 8, 4, 4, 4
    return exp


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five heads and no text head."""
    top = tmp_path_factory.mktemp("heads")
    tones.make_corpus(top / "corpus", utterances=12)
    manifest = top / "corpus" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["labels"] = {
            "emotion": "glad" if row["language"] == "en" else "sad", "arousal": f"{number / 10:.1f}",
            "sounds": "0.0-0.2 beep" if number % 2 else "none", "f0": "0.02 0 0 " + "200 " * 20,
            "phonemes": "a b" if row["language"] == "en" else "b",
        }  # fmt: skip
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    exp = experiment()
    prepare(exp, top / "corpus", top / "data")
    tokenizer(exp, top / "data", top / "run")
    train(exp, top / "data", top / "run", cpu=True)
    return top


def test_all_heads_learn_and_are_validated(top: Path) -> None:
    rows = [json.loads(line) for line in (top / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "train"][-1]
    names = ("mood", "arousal", "sounds", "pitch", "pitch_voicing", "phones")
    assert all(np.isfinite(last[f"{name}_loss"]) for name in names)
    valid = [row for row in rows if row["kind"] == "valid"][-1]
    assert {"mood_accuracy", "arousal_ccc"} <= valid.keys()
    assert valid["error"] == pytest.approx(1 - valid["mood_accuracy"])
    saved = load_checkpoint(top / "run" / "best.pt")
    assert set(saved.notes["trained"]) == {"mood", "arousal", "sounds", "pitch", "phones"}
    weights = saved.weights["heads.mood.class_weights"]
    assert weights.shape == (2,) and (weights - 1).abs().max() < 1  # counted, nearly even


def test_labels_and_numbers_are_decoded_and_scored(top: Path) -> None:
    decode(experiment(), top / "data", top / "run")
    scores = score(top / "run", data=top / "data", show=True)
    assert [r.label for r in scores.labels] == ["emotion"] and [r.label for r in scores.numbers] == [
        "arousal"
    ]
    result = json.loads((top / "run" / "decode" / "test" / "result.json").read_text())
    assert {"weighted_f1", "confusion"} <= result["labels"]["emotion"].keys()
    assert "ccc" in result["labels"]["arousal"]
    assert "as sad" in (top / "run" / "decode" / "test" / "labels.html").read_text()
