"""The calibration of a checkpoint: found by maya.load, applied to words, and refused for other weights."""

import json
import logging
from pathlib import Path

import pytest
import torch

import maya
from maya.decode.calibration import (
    Curve,
    MethodCalibration,
    calibration_path,
    checkpoint_mark,
    read_calibration,
    write_calibration,
)
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny

MEASURED = MethodCalibration(
    offset_seconds=0.02, aggregation="mean", curve=Curve((0.0, 1.0), (0.25, 0.75)), facts={"words": 9}
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained model that writes random text."""
    pieces = train_tokenizer({"en": ["ab ba abba", "a b"], "hi": ["ab"]}, TokenizerConfig(vocab_size=8))
    cfg = with_vocabulary(tiny.experiment().model, pieces.vocab_size, ("en", "hi"))
    torch.manual_seed(1)
    model = build_model(cfg)
    with torch.no_grad():
        model.heads["ctc"].decoder_layers[0].weight *= 30  # type: ignore[operator,union-attr]
    weights = {"model_config": cfg, "tokenizer": pieces, "weights": model.state_dict()}
    save_checkpoint(tmp_path / "best.pt", Checkpoint(**weights, step=0, notes={}))
    return tmp_path / "best.pt"


def test_load_applies_it_to_the_method_that_was_measured(checkpoint: Path) -> None:
    audio = torch.randn(24000) * 0.1
    (raw,) = maya.load(checkpoint, "cpu").transcribe(audio, "en", method="ctc")
    write_calibration(checkpoint, {"ctc": MEASURED})
    recognizer = maya.load(checkpoint.parent, "cpu")  # also through the run folder
    (hyp,) = recognizer.transcribe(audio, "en", method="ctc")
    assert hyp.text == raw.text and len(hyp.words) > 3
    assert recognizer.word_rules("ctc").aggregation == "mean"
    for word in hyp.words:
        assert word.confidence is not None and 0.25 <= word.confidence <= 0.75
    shifts = [a.start - b.start for a, b in zip(raw.words, hyp.words, strict=True)]  # type: ignore[operator]
    assert shifts[1:] == pytest.approx([0.02] * (len(shifts) - 1))
    other = recognizer.transcribe(audio, "en", method="transducer")[0]
    plain = maya.load(checkpoint, "cpu")
    plain.calibration = None
    assert other.words == plain.transcribe(audio, "en", method="transducer")[0].words
    stream = recognizer.word_rules("ctc")
    assert stream.curve is not None and stream.curve(0.5) == 0.5


def test_methods_are_added_and_replaced(checkpoint: Path) -> None:
    write_calibration(checkpoint, {"ctc": MEASURED})
    path = write_calibration(checkpoint, {"transducer": MethodCalibration(offset_seconds=0.1)})
    read = read_calibration(checkpoint)
    assert (
        read is not None
        and path == calibration_path(checkpoint) == checkpoint.parent / "best.calibration.json"
    )
    assert read.methods["ctc"] == MEASURED and read.rules("transducer").offset_seconds == 0.1
    assert read.rules("ctc_beam").curve is None


def test_other_weights_do_not_use_it(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_calibration(checkpoint, {"ctc": MEASURED})
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 4] ^= 1
    mark = checkpoint_mark(checkpoint)
    checkpoint.write_bytes(bytes(data))
    assert checkpoint_mark(checkpoint) != mark
    with caplog.at_level(logging.WARNING):
        assert read_calibration(checkpoint) is None
    assert "measured with other weights" in caplog.text


@pytest.mark.parametrize("change", ["{", '{"methods": {}}', '{"checkpoint": "x", "methods": {"ctc": {}}}'])
def test_a_damaged_file_is_named(checkpoint: Path, change: str) -> None:
    calibration_path(checkpoint).write_text(change)
    with pytest.raises(MayaError, match="best.calibration.json is not a calibration"):
        read_calibration(checkpoint)
    calibration_path(checkpoint).unlink()
    assert read_calibration(checkpoint) is None


def test_curve_is_made_of_straight_lines() -> None:
    curve = Curve((0.2, 0.6, 0.8), (0.1, 0.5, 0.9))
    assert [curve(x) for x in (0.0, 0.2, 0.4, 0.6, 0.7, 0.9)] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.7, 0.9])
    assert Curve((0.5,), (0.3,))(0.9) == 0.3
    assert json.dumps([curve(0.3)])
    for x, y in (((), ()), ((0.2, 0.1), (0.1, 0.2)), ((0.1,), (0.1, 0.2))):
        with pytest.raises(MayaError, match="calibration curve"):
            Curve(x, y)
