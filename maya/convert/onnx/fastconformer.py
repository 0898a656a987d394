"""Export FastConformers as ONNX graphs, with the file names and metadata that sherpa-onnx reads for NeMo's
models."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from maya.convert.conversion import rebuilt
from maya.convert.heads import HeadName, exported_head, transducer_head
from maya.convert.icefall.tokens import token_table
from maya.convert.nemo.export import with_language
from maya.convert.nemo.parts import NemoParts, nemo_parts
from maya.convert.onnx.fastconformer_graphs import (
    CTCGraph,
    CTCModelGraph,
    EncoderGraph,
    FeatureGraph,
    JoinerGraph,
    PredictorGraph,
    StreamingEncoderGraph,
)
from maya.convert.onnx.trace import Graph, packages, write
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.features.logmel import LogMel
from maya.heads.transducer import Predictor
from maya.models.speech_model import SpeechModel

TARGET = "the ONNX export"


def to_onnx(
    model: Recognizer,
    out: str | Path,
    *,
    head: HeadName | None = None,
    language: str | None = None,
    int8: bool = False,
    stream: bool = False,
) -> list[Path]:
    """Write `model` as ONNX graphs into the folder `out`; returns the files.

    Always written: features.onnx (waveform to log-mel) and tokens.txt. For a transducer: encoder.onnx,
    decoder.onnx (the predictor), joiner.onnx, and ctc.onnx from the encoder's output if the model has CTC.
    With `head` "ctc", or without a trained transducer: model.onnx from features to CTC log-probabilities.

    language: of a model with a language embedding, the language to fix, or "unknown". With None the encoder
        has a third input `language` (B,) int64, -1 for unknown, which sherpa-onnx does not supply.
    int8: also write *.int8.onnx, with weights of 8 bits.
    stream: the encoder takes a chunk and states, as NeMo's cache-aware models do; for an RNN-T.

    Every graph is run once and compared with the model. Raises MayaError without the packages of the extra
    [onnx], for a head or language that the model does not have, for a head that was never trained, and for
    parts that NeMo's models lack.
    """
    parts = nemo_parts(model.model.cfg, TARGET)
    packages()
    network = _fixed_language(model.model, language)
    head = exported_head(model, head)
    graphs = _graphs(network, parts, head)
    if stream:
        graphs[1] = _stream(network, parts, head)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "tokens.txt"]
    pieces = model.tokenizer.pieces(range(model.tokenizer.vocab_size))
    written[0].write_text(token_table([*pieces, "<blk>"]), encoding="utf-8")
    for graph in graphs:
        facts = metadata(network, head) if graph.name in ("encoder", "model") else {}
        if isinstance(graph.module, StreamingEncoderGraph):
            facts |= stream_metadata(graph.module)
        written += write(graph, out, facts, int8=int8 and graph.name != "features")
    return written


def metadata(model: SpeechModel, head: HeadName) -> dict[str, str]:
    """The metadata that sherpa-onnx reads from an encoder, and others that are needed to run the graphs."""
    cfg = model.cfg
    parts = nemo_parts(cfg, TARGET)
    features, tdt = parts.features, head == "transducer" and bool(parts.durations)
    facts: dict[str, Any] = {
        "vocab_size": cfg.vocab_size,  # without blank
        "normalize_type": "per_feature" if features.normalize == "per_feature" else "",
        "subsampling_factor": parts.encoder.subsampling_factor, "feat_dim": features.num_mels,
        "sample_rate": features.sample_rate, "version": "1", "model_author": "Maya",
        "model_type": "EncDecCTCModelBPE" if head == "ctc" else "EncDecRNNTBPEModel",
        "url": "maya/tdt" if tdt else f"maya/{head}",  # "tdt" is the sign of a TDT for sherpa-onnx
        "comment": "log-mel front end of NeMo " + ("before 2.5" if features.legacy else "2.5 and later"),
        "languages": " ".join(cfg.languages),
    }  # fmt: skip
    if head == "transducer" and parts.predictor is not None:
        facts |= {"pred_rnn_layers": parts.predictor.layers, "pred_hidden": parts.predictor.hidden}
    if tdt:
        facts["durations"] = " ".join(map(str, parts.durations))
    return {key: str(value) for key, value in facts.items()}


def _fixed_language(model: SpeechModel, language: str | None) -> SpeechModel:
    """`model` itself, or a copy for one language without the embedding."""
    if language is None:
        return model
    if not model.cfg.language_embedding:
        raise MayaError("this model has no language embedding; leave --language out")
    state = with_language(model.state_dict(), model.cfg, language)
    del state["language_embedding.weight"]
    return rebuilt(model, dataclasses.replace(model.cfg, language_embedding=False), state)


def _graphs(model: SpeechModel, parts: NemoParts, head: HeadName) -> list[Graph]:
    dim, mels, rate = parts.encoder.d_model, parts.features.num_mels, parts.features.sample_rate
    front = model.preprocessor["featurizer"]
    assert isinstance(front, LogMel)
    lens = torch.tensor([rate, rate * 9 // 16])
    features = Graph(
        name="features", module=FeatureGraph(front),
        inputs={"audio": (torch.randn(2, rate) * 0.1, "batch samples"), "audio_lens": (lens, "batch")},
        outputs={"features": "batch _ frames", "feature_lens": "batch"},
    )  # fmt: skip
    signal = {
        "audio_signal": (torch.randn(2, mels, 137), "batch _ frames"),
        "length": (torch.tensor([137, 80]), "batch"),
    }
    if model.cfg.language_embedding:
        signal["language"] = (torch.tensor([0, -1]), "batch")
    if head == "ctc":
        outputs = {"logprobs": "batch steps", "encoded_lengths": "batch"}
        return [features, Graph(name="model", module=CTCModelGraph(model), inputs=signal, outputs=outputs)]
    outputs = {"outputs": "batch _ steps", "encoded_lengths": "batch"}
    encoder = Graph(name="encoder", module=EncoderGraph(model), inputs=signal, outputs=outputs)
    graphs = [features, encoder, *_transducer_graphs(model, parts)]
    if parts.ctc is not None:
        enc, ctc = (torch.randn(2, dim, 7), "batch _ steps"), CTCGraph(model.head("ctc"))
        outputs = {"logprobs": "batch steps"}
        graphs.append(Graph(name="ctc", module=ctc, inputs={"encoder_outputs": enc}, outputs=outputs))
    return graphs


def _stream(model: SpeechModel, parts: NemoParts, head: HeadName) -> Graph:
    """The encoder of a stream. Raises MayaError for a model that sherpa-onnx cannot stream."""
    if head == "ctc" or parts.durations or model.cfg.language_embedding or parts.features.normalize != "none":
        raise MayaError(
            "sherpa-onnx streams FastConformers with an RNN-T head without durations, features that are not "
            "normalised, and no language embedding (--language)"
        )
    module = StreamingEncoderGraph(model)
    e, reach = parts.encoder, parts.encoder.conv_kernel - 1
    audio = torch.randn(2, module.mels, module.window)
    inputs = {
        "audio_signal": (audio, "batch"),
        "length": (torch.full((2,), module.window), "batch"),
        "cache_last_channel": (torch.randn(2, e.n_layers + 1, module.left_frames, e.d_model), "batch"),
        "cache_last_time": (torch.randn(2, e.n_layers, e.d_model, reach), "batch"),
        "cache_last_channel_len": (torch.tensor([1000, 2 * module.chunk]), "batch"),
    }
    names = ("outputs", "encoded_lengths", *(f"{name}_next" for name in list(inputs)[2:]))
    return Graph(name="encoder", module=module, inputs=inputs, outputs=dict.fromkeys(names, "batch"))


def stream_metadata(graph: StreamingEncoderGraph) -> dict[str, str]:
    """The metadata of a chunk and of the states that sherpa-onnx begins a stream with."""
    e = graph.encoder.cfg
    sizes = {
        "channel": (e.n_layers + 1, graph.left_frames, e.d_model),
        "time": (e.n_layers, e.d_model, e.conv_kernel - 1),
    }
    facts = {f"cache_last_{k}_dim{i}": str(n) for k, dims in sizes.items() for i, n in enumerate(dims, 1)}
    return facts | {"window_size": str(graph.window), "chunk_shift": str(graph.window)}


def _transducer_graphs(model: SpeechModel, parts: NemoParts) -> list[Graph]:
    """Predictor and joint, with the names of NeMo's export."""
    head, p, batch = transducer_head(model), parts.predictor, 2
    assert isinstance(head.decoder, Predictor) and p is not None
    labels = torch.randint(0, model.blank + 1, (batch, 3), dtype=torch.int32)
    state = (torch.randn(p.layers, batch, p.hidden) * 0.1, "_ batch")
    predictor = Graph(
        name="decoder", module=PredictorGraph(head.decoder),
        inputs={
            "targets": (labels, "batch labels"),
            "target_length": (torch.full((batch,), 3, dtype=torch.int32), "batch"), "h": state, "c": state,
        },
        outputs={
            "outputs": "batch _ labels", "prednet_lengths": "batch", "next_h": "_ batch", "next_c": "_ batch",
        },
    )  # fmt: skip
    enc, pred = torch.randn(batch, parts.encoder.d_model, 4), torch.randn(batch, p.hidden, 3)
    joiner = Graph(
        name="joiner", module=JoinerGraph(head.joint),
        inputs={"encoder_outputs": (enc, "batch _ steps"), "decoder_outputs": (pred, "batch _ labels")},
        outputs={"outputs": "batch steps labels"},
    )  # fmt: skip
    return [predictor, joiner]
