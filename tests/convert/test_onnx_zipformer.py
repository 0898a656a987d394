"""The graphs for sherpa-onnx equal the model, for real speech of any length, whole or in chunks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maya.audio.load import load_audio
from maya.convert.heads import transducer_head
from maya.convert.onnx import trace as onnx_trace
from maya.convert.onnx.zipformer import to_sherpa_onnx
from maya.convert.onnx.zipformer_graphs import initial_states, state_axes
from maya.decode.base import MethodContext
from maya.decode.recognizer import Recognizer
from maya.decode.transducer.greedy import GreedyTransducerConfig
from maya.encoders import Encoded, Zipformer
from maya.encoders.zipformer.config import Chunking
from maya.errors import MayaError
from maya.recipes.cli import main
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests.convert import archives
from tests.convert import icefall_files as files
from tests.convert.icefall_files import KINDS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
BAR = 2e-5


@pytest.fixture(scope="module")
def speech(shared: Path) -> tuple[Tensor, Tensor]:
    """Four recorded utterances, the first of 0.3 s, (B, N) and (B,)."""
    folder = shared / "corpora" / "indic12"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    short = sorted((row for row in rows if row["duration"] < 4), key=lambda row: row["duration"])
    audio = [torch.as_tensor(load_audio(folder / row["audio"])) for row in short[200 : len(short) : 900]]
    audio.insert(0, audio[0][:4800])
    lens = torch.tensor([len(a) for a in audio])
    return torch.nn.utils.rnn.pad_sequence(audio, batch_first=True), lens


def facts(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(str(path), load_external_data=False).metadata_props}


def names(path: Path) -> tuple[list[str], list[str]]:
    graph = onnx.load(str(path)).graph
    return [i.name for i in graph.input], [o.name for o in graph.output]


def two_layers(**fields: Any) -> dict[str, Any]:
    """Two stacks of one layer: the smallest model with all parts, because tracing is slow."""
    sizes = {"downsampling": (1, 4), "layers": (1, 1), "dims": (16, 24), "unmasked_dims": (16, 24)}
    stacks = {"ff_dims": (32, 32), "heads": (2, 2), "conv_kernels": (7, 5)}
    return {"encoder": files.tiny_zipformer.encoder(**sizes, **stacks, **fields)}


def zipformer(model: Recognizer) -> Zipformer:
    assert isinstance(model.model.encoder, Zipformer)
    return model.model.encoder


def greedy(folder: Path, enc: Tensor) -> tuple[list[int], list[int]]:
    """Greedy decoding as in sherpa-onnx, at most one label a frame. Returns tokens and their frames."""
    decoder, joiner = (session(folder / f"{name}.onnx") for name in ("decoder", "joiner"))
    tokens, frames = [-1, 0], []
    (pred,) = decoder.run(None, {"y": np.array([tokens[-2:]])})
    for t, frame in enumerate(enc):
        (logit,) = joiner.run(None, {"encoder_out": frame[None].numpy(), "decoder_out": pred})
        if label := int(logit.argmax()):
            tokens.append(label)
            frames.append(t)
            (pred,) = decoder.run(None, {"y": np.array([tokens[-2:]])})
    return tokens[2:], frames


def session(path: Path) -> Any:
    return onnx_trace.packages()[1].InferenceSession(str(path))


def each(path: Path, feats: Tensor, lens: Tensor) -> Iterator[tuple[Tensor, int]]:
    """A graph's output (S, D) and its length for each utterance, run alone."""
    graph = session(path)
    for row, size in enumerate(lens.tolist()):
        out, size = graph.run(None, {"x": feats[row : row + 1, :size].numpy(), "x_lens": np.array([size])})
        yield torch.from_numpy(out[0]), int(size[0])


@torch.inference_mode()
def test_transducer_on_whole_utterances(tmp_path: Path, speech: tuple[Tensor, Tensor]) -> None:
    model = files.recognizer(tmp_path, **two_layers())
    written = to_sherpa_onnx(model, tmp_path / "out", int8=True)
    parts = [f"{name}{kind}.onnx" for name in ("encoder", "decoder", "joiner") for kind in ("", ".int8")]
    assert {p.name for p in written} == {"tokens.txt", *parts}
    table = (tmp_path / "out/tokens.txt").read_text(encoding="utf-8")
    assert table == (tmp_path / "tokens.txt").read_text(encoding="utf-8")
    out = tmp_path / "out"
    assert names(out / "encoder.onnx") == (["x", "x_lens"], ["encoder_out", "encoder_out_lens"])
    assert names(out / "decoder.onnx") == (["y"], ["decoder_out"])
    assert names(out / "joiner.onnx") == (["encoder_out", "decoder_out"], ["logit"])
    for kind in (".onnx", ".int8.onnx"):
        metadata = facts(out / f"encoder{kind}")
        assert (metadata["model_type"], metadata["version"]) == ("zipformer2", "1")
        assert metadata["comment"] == "non-streaming zipformer2"
        assert facts(out / f"decoder{kind}") == {"context_size": "2", "vocab_size": "20"}
        assert facts(out / f"joiner{kind}") == {"joiner_dim": "32"}
    feats, lens = model.features(*speech)
    enc, enc_lens = zipformer(model)(feats, lens)
    projected, out_lens = onnx_trace.run(out / "encoder.onnx", {"x": feats, "x_lens": lens})
    assert torch.equal(out_lens, enc_lens)
    small, _ = onnx_trace.run(out / "encoder.int8.onnx", {"x": feats, "x_lens": lens})
    right = transducer_head(model.model).joint.enc(enc)
    assert 0 < (small - right).norm() / right.norm() < 0.1
    context = MethodContext(model=model.model, heads=("transducer",))
    hyps = GreedyTransducerConfig(max_symbols=1).build(context)(Encoded(enc, enc_lens))
    assert sum(len(h.tokens) for h in hyps) > 20
    alone = list(each(out / "encoder.onnx", feats, lens))
    for row, size in enumerate(enc_lens.tolist()):
        torch.testing.assert_close(projected[row, :size], right[row, :size], rtol=0, atol=BAR)
        assert alone[row][1] == size
        torch.testing.assert_close(alone[row][0], right[row, :size], rtol=0, atol=BAR)
    assert greedy(out, projected[1, : enc_lens[1]]) == (hyps[1].tokens, hyps[1].frames)


@torch.inference_mode()
def test_causal_ctc_on_whole_utterances(tmp_path: Path, speech: tuple[Tensor, Tensor]) -> None:
    model = files.recognizer(tmp_path, blank_first=False, **two_layers(causal=True, padding="icefall"))
    (_, path) = to_sherpa_onnx(model, tmp_path / "out", head="ctc")
    assert names(path) == (["x", "x_lens"], ["log_probs", "log_probs_len"])
    assert facts(path)["model_type"] == "zipformer2_ctc"
    lines = (tmp_path / "out/tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "<blk> 0" and len(lines) == model.model.cfg.vocab_size + 1
    feats, lens = model.features(*speech)
    for row, (log_probs, size) in enumerate(each(path, feats, lens)):
        enc, enc_lens = zipformer(model)(feats[row : row + 1, : lens[row]], lens[row : row + 1])
        assert [size] == enc_lens.tolist()
        right = model.model.heads["ctc"](enc)[0].roll(1, -1)  # blank moves to the front
        torch.testing.assert_close(log_probs, right, rtol=0, atol=BAR)


@pytest.mark.parametrize("head", ["transducer", pytest.param("ctc", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_streaming(tmp_path: Path, speech: tuple[Tensor, Tensor], head: Any) -> None:
    chunk, left_frames, wide = 16, 64, 2 * 16 + 13
    model = files.recognizer(tmp_path, **two_layers(causal=True))
    to_sherpa_onnx(model, tmp_path, head=head, chunk_frames=chunk, left_frames=left_frames)
    path = tmp_path / ("encoder.onnx" if head == "transducer" else "model.onnx")
    states, out = list(state_axes(2)), "encoder_out" if head == "transducer" else "log_probs"
    assert names(path) == (["x", *states], [out, *(f"new_{name}" for name in states)])
    kind = "streaming zipformer2" if head == "transducer" else "streaming ctc zipformer2"
    assert facts(path) == {
        "model_type": "zipformer2", "version": "1", "model_author": "Maya", "comment": kind,
        "decode_chunk_len": "32", "T": "45", "num_encoder_layers": "1,1", "encoder_dims": "16,24",
        "cnn_module_kernels": "7,5", "left_context_len": "64,16", "query_head_dims": "8,8",
        "value_head_dims": "4,4", "num_heads": "2,2",
    }  # fmt: skip
    feats, _ = model.features(*speech)
    feats = feats[1:3]
    cache = initial_states(zipformer(model), 2, left_frames)
    assert [list(t.shape) for t in cache[:6]] == [
        [64, 2, 16], [1, 2, 64, 12], [64, 2, 8], [64, 2, 8], [2, 16, 3], [2, 16, 3],
    ]  # fmt: skip
    assert list(cache[-2].shape) == [2, 128, 3, 19] and cache[-1].dtype == torch.int64
    graph = session(path)
    pieces, values = [], [t.contiguous().numpy() for t in cache]
    for begin in range(0, feats.shape[1] - wide + 1, 2 * chunk):
        x = feats[:, begin : begin + wide].contiguous().numpy()
        output, *values = graph.run(None, {"x": x, **dict(zip(states, values, strict=True))})
        pieces.append(torch.from_numpy(output))
    streamed = torch.cat(pieces, 1)
    lens, chunking = torch.full((2,), feats.shape[1]), Chunking(chunk, left_frames)
    enc, _ = zipformer(model)(feats, lens, chunking=chunking)
    head_of = transducer_head(model.model).joint.enc if head == "transducer" else model.model.heads["ctc"]
    assert streamed.shape[1] >= 20 and values[-1].tolist() == [chunk * len(pieces)] * 2
    torch.testing.assert_close(streamed, head_of(enc)[:, : streamed.shape[1]], rtol=0, atol=BAR)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = files.recognizer(tmp_path, **KINDS["CTC"], **two_layers())
    kept = Checkpoint(
        model_config=model.model.cfg,
        tokenizer=model.tokenizer,
        weights=model.model.state_dict(),
        step=0,
        notes={},
    )
    save_checkpoint(tmp_path / "run/best.pt", kept)
    assert main(["export", "onnx", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "tokens.txt" in printed and "model.onnx" in printed
    for options, message in (
        (["--head", "transducer"], "needs the head transducer, and this model has no such head"),
        (["--chunk-frames", "16"], "not causal"),
        (["--language", "hi"], "without language embedding"),
    ):
        assert main(["export", "onnx", str(tmp_path / "run"), str(tmp_path / "out"), *options]) == 1
        assert message in capsys.readouterr().err


def test_refuses_models_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="fastconformer"):
        to_sherpa_onnx(archives.recognizer(), tmp_path)
    with pytest.raises(MayaError, match="needs the head ctc, and this model has no such head"):
        to_sherpa_onnx(files.recognizer(tmp_path, ctc_weight=0.0), tmp_path, head="ctc")
    with pytest.raises(MayaError, match="not a multiple"):
        to_sherpa_onnx(files.recognizer(tmp_path, causal=True), tmp_path, chunk_frames=6)
    narrow = files.recognizer(tmp_path, **two_layers(causal=True, front_channels=(8, 16, 32)))
    with pytest.raises(MayaError, match="128 channels at their end, not 32"):
        to_sherpa_onnx(narrow, tmp_path, chunk_frames=16)
