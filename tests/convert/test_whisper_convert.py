"""Whisper's files: read and written without loss, and refused in one sentence where they are damaged."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

import maya
from maya.convert import import_whisper, to_ctranslate2, to_ggml
from maya.convert.whisper.ctranslate2 import read_model, write_model
from maya.convert.whisper.export import openai_weights
from maya.convert.whisper.tokens import MULTILINGUAL
from maya.errors import MayaError
from maya.heads import CTCConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.recipes.cli import main
from tests.convert import whisper_files as models


def test_every_format_gives_the_same_weights(tmp_path: Path) -> None:
    stock = models.stock(tmp_path / "hf")
    folder = import_whisper(tmp_path / "hf").checkpoint
    models.openai_checkpoint(tmp_path / "hf" / "tiny.pt", stock)
    checkpoint = import_whisper(tmp_path / "hf" / "tiny.pt").checkpoint
    to_ctranslate2(maya.load(tmp_path / "hf", "cpu"), tmp_path / "ct2")
    exported = import_whisper(tmp_path / "ct2" / "model.bin").checkpoint
    for other in (checkpoint, exported):
        assert other.weights.keys() == folder.weights.keys()
        assert all(torch.equal(t, folder.weights[n]) for n, t in other.weights.items())
        assert other.tokenizer.model_bytes == folder.tokenizer.model_bytes
    head, again = (c.model_config.heads["whisper"] for c in (folder, exported))
    assert head.alignment_heads == again.alignment_heads == (2, 3)  # type: ignore[attr-defined]
    assert folder.model_config.languages == models.LANGUAGES
    # Neither tells whether it is multilingual, and small vocabularies are not.
    assert exported.model_config.vocab_size < MULTILINGUAL and exported.model_config.languages == ("en",)
    tokens = head.tokens  # type: ignore[attr-defined]
    assert folder.tokenizer.pieces([tokens.zero, tokens.end]) == ["<|0.00|>", "<|endoftext|>"]


@pytest.mark.parametrize(("precision", "error"), [("float16", 2**-10), ("int8", 0.5 / 127)])
def test_short_weights_are_near(precision: Any, error: float, tmp_path: Path) -> None:
    model = models.recognizer(tmp_path / "hf")
    to_ctranslate2(model, tmp_path / "ct2", precision=precision)
    made = import_whisper(tmp_path / "ct2").checkpoint.weights
    for name, tensor in model.model.state_dict().items():
        peaks = tensor.abs().amax(-1, keepdim=True)
        assert ((made[name] - tensor).abs() <= 1.01 * error * peaks + 1e-7).all(), name
    stored = read_model(tmp_path / "ct2" / "model.bin")
    assert not any(name.endswith("weight_scale") for name in stored)


def test_weights_of_16_bits_have_one_scale(tmp_path: Path) -> None:
    weight = torch.tensor([[100, -200], [300, 400]], dtype=torch.int16)
    write_model(tmp_path / "m.bin", {"a/weight": weight, "a/weight_scale": torch.tensor(50.0)}, "float32")
    assert read_model(tmp_path / "m.bin")["a/weight"].tolist() == [[2.0, -4.0], [6.0, 8.0]]


def test_tokenizers_without_timestamps_are_completed(tmp_path: Path) -> None:
    model = models.stock(tmp_path)
    size = models.tokenizer_json(tmp_path / "tokenizer.json", timestamps=False)
    made = import_whisper(tmp_path).checkpoint
    assert made.tokenizer.vocab_size == size == model.config.vocab_size
    assert made.tokenizer.pieces([size - 1501, size - 1]) == ["<|0.00|>", "<|30.00|>"]
    assert made.tokenizer.decode([*made.tokenizer.encode(" the thing"), size - 1]) == "the thing"


def test_ggml_holds_header_filters_tokens_and_weights(tmp_path: Path) -> None:
    model = models.recognizer(tmp_path / "hf")
    to_ggml(model, tmp_path / "ggml.bin")
    data, at = (tmp_path / "ggml.bin").read_bytes(), 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        at += struct.calcsize(form)
        return struct.unpack_from(form, data, at - struct.calcsize(form))

    cfg = model.model.cfg
    assert take("<I11i") == (0x67676D6C, cfg.vocab_size, 100, 128, 2, 2, 448, 128, 2, 2, 80, 1)
    assert take("<2i") == (80, 201)
    at += 4 * 80 * 201
    (count,) = take("<i")
    pieces = [take(f"<{take('<i')[0]}s")[0] for _ in range(count)]
    assert pieces[-1] == b" a" and len(set(pieces)) == count == 262
    right, seen = openai_weights(model), {}
    while at < len(data):
        dims, size, kind = take("<3i")
        shape, name = take(f"<{dims}i")[::-1], take(f"<{size}s")[0].decode()
        dtype = torch.float16 if kind else torch.float32
        n = right[name].numel() * dtype.itemsize
        seen[name] = torch.frombuffer(bytearray(data[at : at + n]), dtype=dtype).view(shape)
        at += n
    assert seen.keys() == right.keys() and seen["encoder.conv1.bias"].shape == (128, 1)
    assert all((t.view(right[n].shape) - right[n]).abs().max() < 0.02 for n, t in seen.items())


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.stock(tmp_path / "hf")
    assert main(["convert", "whisper", str(tmp_path / "hf"), str(tmp_path / "run")]) == 0
    assert "3 languages" in capsys.readouterr().out
    assert (
        main(["export", "ctranslate2", str(tmp_path / "run"), str(tmp_path / "ct2"), "--precision", "int8"])
        == 0
    )
    assert main(["export", "ggml", str(tmp_path / "run"), str(tmp_path / "ggml.bin")]) == 0
    assert (tmp_path / "ct2" / "model.bin").stat().st_size < (tmp_path / "ggml.bin").stat().st_size


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_nothing_pickled_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"dims": _Code()}, tmp_path / "tiny.pt")
    with pytest.raises(MayaError, match="is no checkpoint of tensors alone"):
        import_whisper(tmp_path / "tiny.pt")
    models.stock(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(_Code(), tmp_path / "hf" / "pytorch_model.bin")
    with pytest.raises(MayaError, match="a pickle, which could run code and is not opened"):
        import_whisper(tmp_path / "hf")
    assert not (tmp_path / "executed").exists()


def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    model = models.recognizer(tmp_path / "hf")
    to_ctranslate2(model, tmp_path / "ct2")
    good = (tmp_path / "ct2" / "model.bin").read_bytes()

    def refused(data: bytes, match: str) -> None:
        (tmp_path / "ct2" / "model.bin").write_bytes(data)
        with pytest.raises(MayaError, match=match) as error:
            import_whisper(tmp_path / "ct2")
        assert "\n" not in str(error.value)

    refused(good[: len(good) // 2], "ends too early")
    refused(good[:20], "ends too early")
    refused(b"\x03" + good[1:], r"version 3\)")
    refused(good.replace(b"WhisperSpec", b"AnotherSpec"), "class 'AnotherSpec'; Maya reads WhisperSpec")
    refused(good.replace(b"encoder/conv1/weight", b"encoder/conv3/weight"), "holds no weights of Whisper")
    refused(good.replace(b"encoder/layer_norm/beta", b"encoder/layer_norm/bexa"), "layer_norm/bexa|ln_post")
    (tmp_path / "ct2" / "model.bin").write_bytes(good)
    (tmp_path / "ct2" / "config.json").write_text(json.dumps({"alignment_heads": [[5, 0]]}))
    with pytest.raises(MayaError, match=r"the alignment head \[5, 0\], which its decoder does not have"):
        import_whisper(tmp_path / "ct2")
    (tmp_path / "ct2" / "config.json").write_text("{")
    with pytest.raises(MayaError, match=r"has no readable config\.json"):
        import_whisper(tmp_path / "ct2")


def test_other_tokenizers_and_models_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    models.stock(folder)
    good = json.loads((folder / "tokenizer.json").read_text())
    for change, match in (
        ("missing", "is missing: copy the tokenizer.json"),
        ("{", r"is no tokenizer\.json"),
        (json.dumps(good | {"added_tokens": good["added_tokens"][1:]}), "has no token|tokens and the model"),
    ):
        (folder / "tokenizer.json").write_text(change)
        if change == "missing":
            (folder / "tokenizer.json").unlink()
        with pytest.raises(MayaError, match=match):
            import_whisper(folder)
    shutil.rmtree(folder)
    (tmp_path / "x.pt").write_bytes(b"no zip")
    with pytest.raises(MayaError, match="is no checkpoint of tensors alone"):
        import_whisper(tmp_path / "x.pt")
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(MayaError, match="has no dims and model_state_dict"):
        import_whisper(tmp_path / "x.pt")
    model = models.recognizer(folder)
    model.model = SpeechModel(SpeechModelConfig(heads={"ctc": CTCConfig()}, vocab_size=5))
    for write in (to_ctranslate2, to_ggml):
        with pytest.raises(MayaError, match="this model is no Whisper"):
            write(model, tmp_path / "out")
