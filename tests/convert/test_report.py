"""Reports on models, and refusals of parts that NeMo and ONNX exports do not support."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.convert import to_nemo
from maya.convert.nemo.export import nemo_config, with_language
from maya.convert.nemo.weights import contradictions
from maya.convert.onnx.fastconformer import metadata, to_onnx
from maya.convert.report import components
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig
from maya.models.speech_model import SpeechModel
from tests import tiny_zipformer
from tests.convert.archives import recognizer, tokenizer


def zipformer() -> Recognizer:
    pieces = tokenizer()
    cfg = tiny_zipformer.config(causal=True, vocab_size=pieces.vocab_size, languages=("en",))
    return Recognizer(model=SpeechModel(cfg), tokenizer=pieces, device=torch.device("cpu"))


def test_components_of_a_zipformer() -> None:
    model = zipformer().model
    parts = {part.name: part for part in components(model.cfg, model.state_dict())}
    assert parts["encoder"].parameters == sum(p.numel() for p in model.encoder.parameters())
    assert {name: part.settings for name, part in parts.items()} == {
        "features": "80 mel, 25 ms window, 10 ms hop, Kaldi's",
        "encoder": "zipformer, 1 2 1 layers × 16 32 24, 2 2 2 heads, downsampling 1 2 4, causal",
        "transducer.predictor": "stateless, 2 labels × 32",
        "transducer.joint": "32, tanh, pruned RNN-T, 5 labels a frame, weight 0.7",
        "transducer.simple_joint": "",
        "ctc": "weight 0.3",
    }


def test_components_of_a_fastconformer() -> None:
    model = recognizer(**{"encoder.att_context_size": ((4, 2),), "features.normalize": "none"}).model
    settings = {part.name: part.settings for part in components(model.cfg, model.state_dict())}
    assert settings["features"] == "80 mel, 25 ms window, 10 ms hop, normalize none"
    assert settings["encoder"] == (
        "2 layers × 32, 2 heads, kernel 9, dw_striding 4 × 8, batch norm, biases, xscaling, "
        "regular attention (4, 2)"
    )
    assert settings["transducer.predictor"] == "LSTM 1 × 32"
    assert settings["transducer.joint"] == "32, relu, durations 0 1 2 3 4, weight 0.7"


Entry = Callable[[Recognizer, Path], Any]
ENTRIES: dict[str, tuple[str, Entry]] = {
    "to_nemo": ("NeMo", lambda m, out: to_nemo(m, out / "a.nemo")),
    "nemo_config": ("NeMo", lambda m, out: nemo_config(m.model.cfg, m.tokenizer)),
    "contradictions": ("NeMo", lambda m, out: list(contradictions(m.model.state_dict(), m.model.cfg))),
    "with_language": (
        "fixing the language",
        lambda m, out: with_language(m.model.state_dict(), m.model.cfg, "en"),
    ),
    "to_onnx": ("the ONNX export", lambda m, out: to_onnx(m, out)),
    "metadata": ("the ONNX export", lambda m, out: metadata(m.model, "transducer")),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_refuses_other_encoders_in_one_sentence(tmp_path: Path, entry: str) -> None:
    if entry == "to_onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    what, call = ENTRIES[entry]
    with pytest.raises(MayaError) as caught:
        call(zipformer(), tmp_path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{what} supports log-mel features, FastConformer and an LSTM")
    assert "fbank" in sentence and "\n" not in sentence
    assert list(tmp_path.iterdir()) == []


def test_names_the_first_part_that_does_not_fit(tmp_path: Path) -> None:
    other, model = zipformer().model.cfg, recognizer()
    cfg = model.model.cfg
    model.model.cfg = replace(cfg, encoder=other.encoder)
    with pytest.raises(MayaError, match="zipformer"):
        to_nemo(model, tmp_path / "a.nemo")
    model.model.cfg = replace(cfg, heads=other.heads)
    with pytest.raises(MayaError, match="stateless"):
        to_nemo(model, tmp_path / "a.nemo")
    model.model.cfg = replace(cfg, encoder=replace(cfg.encoder, att_context_size=((4, 4),), global_tokens=1))
    with pytest.raises(MayaError, match="neither fast weights nor global tokens"):
        to_nemo(model, tmp_path / "a.nemo")
    model.model.cfg = replace(cfg, features=replace(cfg.features, normalize="peak"))
    with pytest.raises(MayaError, match="does not support features.normalize=peak"):
        to_nemo(model, tmp_path / "a.nemo")
    for heads, words in (
        ({}, "none of them"),
        ({"attention": AttentionDecoderConfig()}, "an attention decoder"),
    ):
        model.model.cfg = replace(cfg, heads=heads)
        with pytest.raises(MayaError, match=f"supports TDT, RNN-T and CTC heads; this model has {words}"):
            to_nemo(model, tmp_path / "a.nemo")
