"""An export takes a head that was trained, and says which one was not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maya.convert.heads import exported_head, untrained_notes
from maya.convert.icefall.export import to_icefall, with_blank_first
from maya.convert.nemo.export import to_nemo
from maya.convert.onnx.fastconformer import to_onnx
from maya.decode.head_choice import TrainedHeads
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from tests.convert import archives, icefall_files

BOTH = ("transducer", "ctc")


def with_heads(model: Recognizer, trained: Any, dev: Any = None) -> Recognizer:
    model.heads = TrainedHeads(heads=BOTH, trained=trained, dev=dev or {})
    return model


def test_the_default_is_the_transducer_if_it_was_trained() -> None:
    model = archives.recognizer()
    better = {"transducer": {"wer": 0.2, "cer": 0.2}, "ctc": {"wer": 0.1, "cer": 0.1}}
    assert exported_head(model, None) == "transducer"
    assert exported_head(with_heads(model, BOTH, better), None) == "transducer"  # whatever dev says
    assert exported_head(with_heads(model, ("ctc",)), None) == "ctc"
    assert exported_head(archives.recognizer(transducer="none"), None) == "ctc"


def test_a_head_that_was_never_trained_is_refused() -> None:
    model = with_heads(archives.recognizer(), ("ctc",))
    with pytest.raises(MayaError, match="needs the transducer, which was never trained; use ctc"):
        exported_head(model, "transducer")
    with pytest.raises(MayaError, match="needs the CTC head, which was never trained$"):
        exported_head(with_heads(model, ()), None)
    with pytest.raises(MayaError, match="needs a CTC head, and this model has none"):
        exported_head(archives.recognizer(ctc_weight=0.0), "ctc")


def test_exports_of_whole_models_say_so(tmp_path: Path) -> None:
    sentence = "the transducer was never trained"
    nemo = with_heads(archives.recognizer(), ("ctc",))
    assert sentence in to_nemo(nemo, tmp_path / "a.nemo").warnings
    assert untrained_notes(archives.recognizer()) == []


def test_the_record_goes_to_icefall_with_the_model(tmp_path: Path) -> None:
    model = with_heads(icefall_files.recognizer(tmp_path, blank_first=False), ("ctc",))
    assert with_blank_first(model).heads is model.heads


def test_icefalls_export_says_so(tmp_path: Path) -> None:
    model = with_heads(icefall_files.recognizer(tmp_path), ("ctc",))
    assert "the transducer was never trained" in to_icefall(model, tmp_path / "out").warnings


def test_onnx_graphs_are_those_of_the_trained_head(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(1)
    written = to_onnx(with_heads(archives.recognizer(), ("ctc",)), tmp_path)
    assert {path.name for path in written} == {"tokens.txt", "features.onnx", "model.onnx"}
