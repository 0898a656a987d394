"""Exports take a trained head, and reports name the untrained ones."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from maya.config import config
from maya.convert.heads import exported_head, head_notes, text_heads
from maya.convert.icefall.export import to_icefall, with_blank_first
from maya.convert.nemo.export import to_nemo
from maya.convert.onnx.fastconformer import to_onnx
from maya.decode.head_choice import TrainedHeads
from maya.decode.recognizer import Recognizer
from maya.encoders import FastConformerConfig
from maya.errors import MayaError
from maya.heads import CTCConfig
from tests.convert import archives, icefall_files

BOTH = ("transducer", "ctc")


def with_heads(model: Recognizer, trained: Any, dev: Any = None) -> Recognizer:
    model.heads = TrainedHeads(heads=BOTH, trained=trained, dev=dev or {})
    return model


def test_default_is_the_trained_transducer() -> None:
    model = archives.recognizer()
    better = {"transducer": {"wer": 0.2, "cer": 0.2}, "ctc": {"wer": 0.1, "cer": 0.1}}
    assert exported_head(model, None) == "transducer"
    assert (
        exported_head(with_heads(model, BOTH, better), None) == "transducer"
    )  # even if another head is better on dev
    assert exported_head(with_heads(model, ("ctc",)), None) == "ctc"
    assert exported_head(archives.recognizer(transducer="none"), None) == "ctc"


def test_refuses_untrained_heads() -> None:
    model = with_heads(archives.recognizer(), ("ctc",))
    with pytest.raises(MayaError, match="needs the head transducer, which was never trained; use ctc"):
        exported_head(model, "transducer")
    with pytest.raises(MayaError, match="needs the head ctc, which was never trained$"):
        exported_head(with_heads(model, ()), None)
    with pytest.raises(MayaError, match="needs the head ctc, and this model has no such head"):
        exported_head(archives.recognizer(ctc_weight=0.0), "ctc")


def test_nemo_report_names_untrained_heads(tmp_path: Path) -> None:
    sentence = "the transducer head was never trained"
    nemo = with_heads(archives.recognizer(), ("ctc",))
    assert sentence in to_nemo(nemo, tmp_path / "a.nemo").warnings
    assert head_notes(archives.recognizer(), "NeMo") == []
    other = archives.recognizer(language_id_weight=0.1, languages=("en", "hi"))
    report = to_nemo(other, tmp_path / "b.nemo")
    assert "left out, as NeMo has no such head: language" in report.warnings
    assert all(part.name != "language" for part in report.components)


def test_refuses_other_text_heads() -> None:
    cfg = archives.recognizer().model.cfg
    cfg.heads = {"mine": cfg.heads["ctc"]}
    with pytest.raises(MayaError, match="NeMo supports the heads transducer, ctc, attention, not 'mine'"):
        text_heads(cfg, "NeMo")


def test_moving_blank_keeps_the_trained_heads(tmp_path: Path) -> None:
    model = with_heads(icefall_files.recognizer(tmp_path, blank_first=False), ("ctc",))
    assert with_blank_first(model).heads is model.heads


def test_icefall_report_names_untrained_heads(tmp_path: Path) -> None:
    model = with_heads(icefall_files.recognizer(tmp_path), ("ctc",))
    assert "the transducer head was never trained" in to_icefall(model, tmp_path / "out").warnings


def test_onnx_exports_the_trained_head(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(1)
    written = to_onnx(with_heads(archives.recognizer(), ("ctc",)), tmp_path)
    assert {path.name for path in written} == {"tokens.txt", "features.onnx", "model.onnx"}


def test_refuses_subclasses_of_parts_that_other_systems_have(tmp_path: Path) -> None:
    """They may be other networks: the archive would hold tensors that NeMo does not know."""

    @config
    class DeepConfig(CTCConfig):
        kind: Literal["test_deep"] = "test_deep"  # type: ignore[assignment]

    @config
    class WideConfig(FastConformerConfig):
        kind: Literal["test_wide"] = "test_wide"  # type: ignore[assignment]

    nemo, icefall = archives.recognizer(), icefall_files.recognizer(tmp_path)
    for model in (nemo, icefall):
        heads = {**model.model.cfg.heads, "ctc": DeepConfig()}
        model.model.cfg = dataclasses.replace(model.model.cfg, heads=heads)
    with pytest.raises(MayaError, match="NeMo supports .*, not 'ctc' of kind 'test_deep'"):
        to_nemo(nemo, tmp_path / "a.nemo")
    with pytest.raises(MayaError, match="icefall supports .*, not 'ctc' of kind 'test_deep'"):
        to_icefall(icefall, tmp_path)
    nemo.model.cfg = dataclasses.replace(archives.recognizer().model.cfg, encoder=WideConfig())
    with pytest.raises(MayaError, match="FastConformer and an LSTM predictor; this model has test_wide"):
        to_nemo(nemo, tmp_path / "a.nemo")
