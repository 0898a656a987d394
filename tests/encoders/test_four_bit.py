"""Qwen2-Audio's tower with weights of 4 bits: rounding, a probe on it, its checkpoint, refusals."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.encoders import hugging_face
from maya.encoders.hugging_face.four_bit import FourBitLinear
from maya.errors import MayaError
from maya.heads import CTCConfig
from maya.models.adapters import AdapterConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import build_model
from tests.encoders.hugging_face_models import LENS, audio, save, stock
from tests.encoders.test_hugging_face import speech_model, step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("transformers", reason="transformers is not installed")
    return save(stock("qwen2-audio", 64)[0], tmp_path / "qwen2-audio", "qwen2-audio")


def test_a_frozen_tower_of_4_bits_under_a_head_that_learns(folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    features, cfg = hugging_face(folder, four_bit=True, output="weighted")
    model, plain = (
        speech_model(cfg, features),
        speech_model(dataclasses.replace(cfg, four_bit=False), features),
    )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FourBitLinear)}
    assert len(layers) == 3 * 6
    for name, layer in layers.items():
        linear: Any = plain.get_submodule(name)
        assert (layer.weight - linear.weight).abs().mean() < 0.12 * linear.weight.abs().mean()
        assert layer.packed.numel() * 8 == layer.weight.numel() * 4
        if linear.bias is not None:
            assert torch.equal(layer.bias, linear.bias)
    x = features.build()(audio(), LENS)
    with torch.no_grad():
        rounded, exact = (m.eval().encoder(*x).frames for m in (model, plain))
        alone = model.encoder(x[0][2:], x[1][2:]).frames
        for name, layer in layers.items():
            plain.get_submodule(name).weight.copy_(layer.weight)  # type: ignore[operator]
        same = plain.encoder(*x).frames
    assert (rounded - exact).abs().max() > 1e-3 and (rounded - same).abs().max() < 1e-5
    frames = alone.shape[1]
    assert (rounded[2, :frames] - alone[0]).abs().max() < 1e-5
    losses, grads = step(model)
    assert losses.isfinite().all() and {n.split(".")[0] for n in grads} == {"encoder", "heads"}
    assert [n for n in grads if n.startswith("encoder")] == ["encoder.layer_weights"]
    assert all(g is not None and g.any() for g in grads.values())
    other = build_model(dataclasses.replace(model.cfg, encoder=dataclasses.replace(cfg, folder="")))
    other.load_state_dict(model.state_dict())  # a checkpoint needs no folder
    with torch.no_grad():
        assert torch.equal(other.eval().encoder(*x).frames, rounded)


def test_what_4_bits_cannot_do_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, cfg = hugging_face(folder, four_bit=True)
    lora = SpeechModelConfig(
        features=features, encoder=cfg, heads={"ctc": CTCConfig()}, vocab_size=12,
        adapters=AdapterConfig(type="lora"),
    )  # fmt: skip
    with pytest.raises(MayaError, match="LoRA and adapters have no place in weights of 4 bits"):
        build_model(lora)
    waves = '{"model_type": "wav2vec2", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}'
    with pytest.raises(MayaError, match="four_bit is for the encoders of Whisper and Qwen2-Audio only"):
        dataclasses.replace(cfg, settings=waves, folder="").build()
    narrow = save(stock("qwen2-audio")[0], folder.parent / "narrow", "qwen2-audio")
    if importlib.util.find_spec("bitsandbytes"):
        with pytest.raises(MayaError, match="rows of whole blocks of 64 weights, and a layer has"):
            hugging_face(narrow, four_bit=True)[1].build()
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(MayaError, match=r"need pip install 'maya-asr\[4bit\]'"):
        cfg.build()
