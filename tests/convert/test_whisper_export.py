"""Whisper as folders of Hugging Face and as ONNX graphs, and OpenAI's alignment heads."""

import base64
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.convert import import_whisper, to_hugging_face
from maya.convert.onnx.export import export_onnx
from maya.convert.onnx.trace import run
from maya.convert.whisper.published import published_heads
from maya.decode.recognizer import Recognizer
from maya.decode.whisper.method import WhisperConfig
from maya.errors import MayaError
from maya.heads import WhisperDecoder
from tests.convert import whisper_files as models

LIMIT = 12  # tokens


def plain_tokens(model: Recognizer, audio: Any) -> list[int]:
    """The greedy tokens without timestamps."""
    cfg = WhisperConfig(timestamps=False, word_times=False, temperatures=(), max_tokens=LIMIT, no_speech=1.0)
    method = model.make_method(model.choose_method(), cfg)
    (row,) = model.transcribe_each([audio.numpy()], "en", decoder=method, predictions=False)
    assert row.hypothesis is not None
    return row.hypothesis.tokens


def test_transformers_reads_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, audio = models.recognizer(tmp_path / "hf"), models.speech(2.0)
    report = to_hugging_face(model, tmp_path / "out")
    assert "WhisperForConditionalGeneration" in report.title and (tmp_path / "out" / "README.md").is_file()
    network = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path / "out")
    features = processor(audio.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    head = model.model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    read = torch.tensor([[*head.prompt([0])[0], 10, 20, 30]])
    with torch.no_grad():
        encoded = model.model.encode_audio(audio[None], torch.tensor([32000]))
        logits = network(input_features=features, decoder_input_ids=read).logits
        assert (logits - head.step(read, head.state(encoded))[0]).abs().max() < 1e-4
        # A random model writes timestamps too, which Maya rules out where none are asked for, and the last
        # token of its prompt again.
        times = range(head.cfg.tokens.no_timestamps, network.config.vocab_size)
        suppressed = [*network.generation_config.suppress_tokens, *times]
        ids = network.generate(
            features, language="en", task="transcribe", max_new_tokens=LIMIT, suppress_tokens=suppressed
        )
    tokens = plain_tokens(model, audio)
    assert tokens and [t for t in ids[0].tolist() if t < head.cfg.tokens.end] == tokens
    assert processor.tokenizer.decode(tokens) == model.tokenizer.decode(tokens)
    # And back: nothing is lost.
    again = import_whisper(tmp_path / "out").checkpoint
    assert all(torch.equal(t, model.model.state_dict()[name]) for name, t in again.weights.items())
    assert again.model_config.languages == models.LANGUAGES
    assert again.tokenizer.model_bytes == model.tokenizer.model_bytes
    with pytest.raises(MayaError, match="leave --head and --language out"):
        to_hugging_face(model, tmp_path / "other", language="en")


def test_graphs_write_the_greedy_tokens(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = models.recognizer(tmp_path / "hf")
    written = export_onnx(model, tmp_path / "onnx", int8=True)
    names = ["tokens.txt", "encoder.onnx", "encoder.int8.onnx", "decoder.onnx", "decoder.int8.onnx"]
    assert [path.name for path in written] == names
    piece, number = (tmp_path / "onnx" / "tokens.txt").read_text().splitlines()[-1].split()
    ids = head_of(model).cfg.tokens
    assert int(number) == ids.end - 1 and base64.b64decode(piece) == b" a"
    audio = torch.stack([models.speech(2.0, n) for n in range(2)])
    with torch.no_grad():
        mel = model.model.features(audio, torch.tensor([32000, 32000]))[0]
        state = head_of(model).state(model.model.encode_audio(audio, torch.tensor([32000, 32000])))
    cross = run(tmp_path / "onnx" / "encoder.onnx", {"mel": mel.mT.contiguous()})
    cfg = head_of(model).cfg
    caches = [torch.zeros(cfg.layers, 2, cfg.positions, cfg.dim) for _ in range(2)]
    read, offset = torch.tensor(head_of(model).prompt([0, 1])), 0
    for _ in range(LIMIT):
        inputs = {
            "tokens": read, "in_n_layer_self_k_cache": caches[0], "in_n_layer_self_v_cache": caches[1],
            "n_layer_cross_k": cross[0], "n_layer_cross_v": cross[1], "offset": torch.tensor([offset]),
        }  # fmt: skip
        logits, *caches = run(tmp_path / "onnx" / "decoder.onnx", inputs)
        with torch.no_grad():
            expected, state = head_of(model).step(read, state)
        assert (logits - expected).abs().max() < 1e-3
        offset, read = offset + read.shape[1], expected[:, -1:].argmax(-1)
        assert logits[:, -1:].argmax(-1).equal(read)
    with pytest.raises(MayaError, match="Whisper is exported whole"):
        export_onnx(model, tmp_path / "onnx", language="en")


def head_of(model: Recognizer) -> WhisperDecoder:
    head = model.model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    return head


def test_published_alignment_heads_go_by_name_and_size(tmp_path: Path) -> None:
    assert published_heads("tiny", 4, 6) == ((2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5))
    assert published_heads("turbo", 4, 20) == published_heads("large-v3-turbo", 4, 20) != ()
    assert len(published_heads("large-v2", 32, 20)) == 23
    assert published_heads("tiny", 2, 2) == published_heads("large", 32, 20) == ()
    # A model of another size is not taken for the one whose name it has: word times have their default.
    stock = models.stock(tmp_path)
    models.openai_checkpoint(tmp_path / "tiny.pt", stock)
    conversion = import_whisper(tmp_path / "tiny.pt")
    assert any("upper half of the layers" in note for note in conversion.report.warnings)
