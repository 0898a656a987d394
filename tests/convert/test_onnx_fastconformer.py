"""ONNX graphs equal the model, also for batches and lengths that were not traced."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.audio.load import load_audio
from maya.convert.onnx import fastconformer as to
from maya.convert.onnx import trace as onnx_trace
from maya.decode.methods import greedy as greedy_search
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import TransducerConfig
from tests.convert.archives import recognizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def speech(shared: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Three recorded utterances of different lengths, (B, N) and (B,)."""
    folder = shared / "corpora" / "digits"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()[:400:150]]
    audio = [torch.as_tensor(load_audio(folder / row["audio"])) for row in rows]
    lens = torch.tensor([len(a) for a in audio])
    return torch.nn.utils.rnn.pad_sequence(audio, batch_first=True), lens


def model(**fields: Any) -> Recognizer:
    torch.manual_seed(1)
    return recognizer(**fields)


def close(graph: torch.Tensor, expected: torch.Tensor, lens: torch.Tensor, bar: float = 2e-5) -> None:
    """Check that (B, S, ...) outputs are equal on the valid frames of every row."""
    for row, size in enumerate(lens.tolist()):
        torch.testing.assert_close(graph[row, :size], expected[row, :size], rtol=0, atol=bar)


def greedy(
    folder: Path, enc: torch.Tensor, durations: tuple[int, ...], blank: int
) -> tuple[list[int], list[int]]:
    """Greedy TDT decoding of one utterance with the graphs alone. Returns tokens and their frames."""
    tokens: list[int] = []
    frames: list[int] = []

    def read(label: int, h: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
        inputs = {"targets": torch.tensor([[label]], dtype=torch.int32)}
        inputs |= {"h": h, "c": c, "target_length": torch.ones(1, dtype=torch.int32)}
        out = onnx_trace.run(folder / "decoder.onnx", inputs)
        return [out[0], out[2], out[3]]

    pred, h, c = read(blank, torch.zeros(1, 1, 32), torch.zeros(1, 1, 32))
    t = on_this_frame = 0
    while t < enc.shape[2]:
        inputs = {"encoder_outputs": enc[:, :, t : t + 1].contiguous(), "decoder_outputs": pred}
        logits = onnx_trace.run(folder / "joiner.onnx", inputs)[0].flatten()
        label, step = int(logits[: blank + 1].argmax()), durations[int(logits[blank + 1 :].argmax())]
        if label != blank:
            tokens.append(label)
            frames.append(t)
            pred, h, c = read(label, h, c)
            on_this_frame += 1
        if step == 0 and (label == blank or on_this_frame == 10):
            step = 1
        on_this_frame = 0 if step else on_this_frame
        t += step
    return tokens, frames


@torch.inference_mode()
def test_tdt_and_ctc_on_real_speech(tmp_path: Path, speech: tuple[torch.Tensor, torch.Tensor]) -> None:
    ours, (audio, lens) = model(), speech
    files = {p.name for p in to.to_onnx(ours, tmp_path)}
    assert files == {f"{n}.onnx" for n in ("features", "encoder", "decoder", "joiner", "ctc")} | {
        "tokens.txt"
    }
    expected, feat_lens = ours.features(audio, lens)
    feats, graph_lens = onnx_trace.run(tmp_path / "features.onnx", {"audio": audio, "audio_lens": lens})
    assert torch.equal(graph_lens, feat_lens)
    error = (feats.transpose(1, 2)[:, : expected.shape[1]] - expected).abs()
    assert error.quantile(0.97) <= 2e-5 and error.max() <= 5e-3  # near cancelled bins; see test_logmel
    signal = {"audio_signal": expected.transpose(1, 2).contiguous(), "length": feat_lens}
    enc, enc_lens = onnx_trace.run(tmp_path / "encoder.onnx", signal)
    right, right_lens = ours.model.encoder(expected, feat_lens)
    assert torch.equal(enc_lens, right_lens)
    close(enc.transpose(1, 2), right, right_lens)
    (logprobs,) = onnx_trace.run(tmp_path / "ctc.onnx", {"encoder_outputs": enc})
    close(logprobs, ours.model.heads["ctc"](right), right_lens)
    hyps = greedy_search(ours.model, Encoded(right, right_lens), "transducer")
    durations = ours.model.cfg.head("transducer", TransducerConfig).durations
    assert any(h.tokens for h in hyps)
    for row, hyp in enumerate(hyps):
        own_frames = enc[row : row + 1, :, : right_lens[row]]
        assert greedy(tmp_path, own_frames, durations, ours.model.blank) == (hyp.tokens, hyp.frames)


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder.att_context_size": ((4, 2),), "encoder.use_bias": False},
        {"encoder.att_context_size": ((4, 1),), "encoder.att_context_style": "chunked_limited",
         "encoder.causal_downsampling": True, "encoder.conv_context": "causal",
         "encoder.conv_norm": "layer_norm", "features.normalize": "none"},
        {"features.legacy": True, "encoder.xscaling": False, "encoder.subsampling_factor": 8},
    ],
    ids=["band", "streaming", "older"],
)  # fmt: skip
@torch.inference_mode()
def test_other_encoders_as_ctc_models(tmp_path: Path, fields: dict[str, Any]) -> None:
    ours = model(transducer="none", ctc_weight=1.0, **fields)
    to.to_onnx(ours, tmp_path)
    x, lens = torch.randn(3, 333, 80), torch.tensor([333, 200, 9])
    signal = {"audio_signal": x.transpose(1, 2).contiguous(), "length": lens}
    logprobs, out_lens = onnx_trace.run(tmp_path / "model.onnx", signal)
    enc, enc_lens = ours.model.encoder(x, lens)
    assert torch.equal(out_lens, enc_lens)
    close(logprobs, ours.model.heads["ctc"](enc), enc_lens)


@torch.inference_mode()
def test_language_as_input_and_fixed(tmp_path: Path) -> None:
    ours = model(language_embedding=True, languages=("en", "hi"))
    x, lens = torch.randn(2, 90, 80), torch.tensor([90, 61])
    enc, enc_lens = ours.model.encoder(x, lens)
    langs = torch.tensor([1, -1])
    right = enc + ours.model.language_embedding(langs.clamp(min=0))[:, None] * (langs >= 0)[:, None, None]
    signal = {"audio_signal": x.transpose(1, 2).contiguous(), "length": lens}
    to.to_onnx(ours, tmp_path)
    close(
        onnx_trace.run(tmp_path / "encoder.onnx", signal | {"language": langs})[0].transpose(1, 2),
        right,
        enc_lens,
    )
    to.to_onnx(ours, tmp_path, language="hi")
    fixed = onnx_trace.run(tmp_path / "encoder.onnx", signal)[0].transpose(1, 2)
    close(fixed[:1], right[:1], enc_lens[:1])
    with pytest.raises(MayaError, match="en, hi, unknown"):
        to.to_onnx(ours, tmp_path, language="ta")


def test_metadata_tokens_and_weights_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = model()
    monkeypatch.setattr(onnx_trace, "LARGEST_GRAPH_BYTES", 100_000)
    names = [p.name for p in to.to_onnx(ours, tmp_path, int8=True)]
    assert "encoder.weights" in names and "encoder.int8.onnx" in names
    assert (tmp_path / "encoder.onnx").stat().st_size < (tmp_path / "encoder.weights").stat().st_size
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == ours.tokenizer.vocab_size + 1 and lines[-1] == f"<blk> {ours.tokenizer.vocab_size}"
    for name in ("encoder.onnx", "encoder.int8.onnx"):
        loaded = onnx.load(str(tmp_path / name), load_external_data=False)
        facts = {p.key: p.value for p in loaded.metadata_props}
        assert facts["vocab_size"] == str(ours.tokenizer.vocab_size) and "tdt" in facts["url"]
        assert facts["pred_hidden"] == "32" and facts["normalize_type"] == "per_feature"
    x = {"audio_signal": torch.randn(1, 80, 400), "length": torch.tensor([400])}
    full, small = (onnx_trace.run(tmp_path / n, x)[0] for n in ("encoder.onnx", "encoder.int8.onnx"))
    assert 0 < (full - small).norm() / full.norm() < 0.1


def test_refuses_missing_heads(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="needs the head ctc, and this model has no such head"):
        to.to_onnx(model(ctc_weight=0.0), tmp_path, head="ctc")
    with pytest.raises(MayaError, match="needs the head transducer, and this model has no such head"):
        to.to_onnx(model(transducer="none", ctc_weight=1.0), tmp_path, head="transducer")


@pytest.mark.parametrize(("context", "scaled"), [((24, 1), True), ((22, 0), False)])
@torch.inference_mode()
def test_a_stream(
    tmp_path: Path, speech: tuple[torch.Tensor, torch.Tensor], context: Any, scaled: bool
) -> None:
    """Chunk by chunk, rows at different times of their streams, equal to the model's own stream."""
    style = "chunked_limited" if context[1] else "regular"
    streaming = {
        "att_context_style": style, "att_context_size": (context,), "xscaling": scaled,
        "causal_downsampling": True, "conv_context": "causal", "conv_norm": "layer_norm",
    }  # fmt: skip
    own = streaming_model(**streaming)
    to.to_onnx(own, tmp_path, head="transducer", stream=True)
    graph = onnx.load(str(tmp_path / "encoder.onnx"))
    facts = {p.key: p.value for p in graph.metadata_props}
    window = int(facts["window_size"])
    assert facts["chunk_shift"] == facts["window_size"] == str(4 * (context[1] + 1))
    feats, _ = own.features(*speech)
    encoder: Any = own.model.encoder
    expected = encoder.stream(len(feats), context).push(feats).frames

    def start(kind: str, batch: int) -> torch.Tensor:
        return torch.zeros(batch, *(int(facts[f"cache_last_{kind}_dim{n}"]) for n in (1, 2, 3)))

    names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")

    def run(x: torch.Tensor, states: Any) -> Any:
        inputs = {"audio_signal": x.transpose(1, 2), "length": torch.full((len(x),), window)}
        inputs |= dict(zip(names, states, strict=True))
        out, lens, *states = onnx_trace.run(tmp_path / "encoder.onnx", inputs)
        assert lens.tolist() == [context[1] + 1] * len(x)
        return out.transpose(1, 2), states

    first = [start("channel", 1), start("time", 1), torch.zeros(1, dtype=torch.long)]
    pieces: list[list[torch.Tensor]] = [[], []]
    out, late = run(feats[:1, :window], first)  # row 0 is a chunk ahead of row 1
    pieces[0].append(out[0])
    states = [torch.cat(pair) for pair in zip(late, first, strict=True)]
    for n in range(feats.shape[1] // window - 1):
        x = torch.cat([feats[:1, (n + 1) * window :][:, :window], feats[1:2, n * window :][:, :window]])
        out, states = run(x, states)
        for row in range(2):
            pieces[row].append(out[row])
    for row in range(2):
        streamed = torch.cat(pieces[row])
        assert len(streamed) >= 10
        torch.testing.assert_close(streamed, expected[row, : len(streamed)], rtol=0, atol=2e-5)


def streaming_model(**encoder: Any) -> Recognizer:
    fields: dict[str, Any] = {f"encoder.{name}": value for name, value in encoder.items()}
    return model(
        **fields, **{"features.normalize": "none", "transducer": "rnnt", "language_embedding": False}
    )


def test_streams_that_sherpa_onnx_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="RNN-T head without durations"):
        to.to_onnx(model(), tmp_path, head="transducer", stream=True)
