"""Models as ONNX graphs, in the files and with the metadata that sherpa-onnx reads for NeMo's models."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from maya.convert.export_head import Head, exported_head
from maya.convert.nemo_export import with_language
from maya.convert.onnx_graphs import (
    CTCGraph,
    CTCModelGraph,
    EncoderGraph,
    FeatureGraph,
    JoinerGraph,
    PredictorGraph,
)
from maya.convert.onnx_trace import Axes, Graph, packages, write
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads.transducer import Predictor
from maya.models.speech_model import SpeechModel, nemo_parts
from maya.text.tokenizer import Tokenizer

WHAT = "the ONNX export"


def to_onnx(
    model: Recognizer,
    out: str | Path,
    *,
    head: Head | None = None,
    language: str | None = None,
    int8: bool = False,
) -> list[Path]:
    """Write `model` as ONNX graphs into the folder `out`; returns the files.

    features.onnx (waveform to log-mel), tokens.txt, and for a transducer encoder.onnx, decoder.onnx (the
    predictor) and joiner.onnx, with ctc.onnx on the encoder's output where the model has that head; with
    `head` "ctc", or without a trained transducer, model.onnx from features to CTC log-probabilities.

    language: of a model with a language embedding, the language to fix, or "unknown"; None leaves `language`
        (B,) int64, -1 for unknown, as a third input of the encoder, which sherpa-onnx does not give.
    int8: also write *.int8.onnx, with weights of 8 bits.

    Every graph is run once and compared with the model. Raises MayaError without the packages of the extra
    [onnx], for a head or language that the model does not have, for a head that was never trained, and for
    parts that NeMo's models lack.
    """
    nemo_parts(model.model.cfg, WHAT)
    packages()
    network = _fixed_language(model.model, language)
    head = exported_head(model, head)
    graphs = _graphs(network, head)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "tokens.txt"]
    written[0].write_text(tokens(model.tokenizer), encoding="utf-8")
    for graph in graphs:
        facts = metadata(network, head) if graph.name in ("encoder", "model") else {}
        written += write(graph, out, facts, int8=int8 and graph.name != "features")
    return written


def tokens(tokenizer: Tokenizer) -> str:
    """tokens.txt: a piece and its id a line, blank last as <blk>."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return "".join(f"{piece} {i}\n" for i, piece in enumerate([*pieces, "<blk>"]))


def metadata(model: SpeechModel, head: Head) -> dict[str, str]:
    """What sherpa-onnx asks of an encoder, and what else a reader needs to run the graphs."""
    cfg = model.cfg
    features, encoder, predictor = nemo_parts(cfg, WHAT)
    tdt = head == "transducer" and cfg.transducer == "tdt"
    facts: dict[str, Any] = {
        "vocab_size": cfg.vocab_size,  # without blank
        "normalize_type": "per_feature" if features.normalize == "per_feature" else "",
        "subsampling_factor": encoder.subsampling_factor,
        "feat_dim": features.num_mels,
        "sample_rate": features.sample_rate,
        "model_type": "EncDecCTCModelBPE" if head == "ctc" else "EncDecRNNTBPEModel",
        "version": "1",
        "model_author": "Maya",
        "url": "maya/tdt" if tdt else f"maya/{head}",  # sherpa-onnx takes a model for TDT by these letters
        "comment": "log-mel front end of NeMo " + ("before 2.5" if features.legacy else "2.5 and later"),
        "languages": " ".join(cfg.languages),
    }
    if head == "transducer":
        facts |= {"pred_rnn_layers": predictor.layers, "pred_hidden": predictor.hidden}
    if tdt:
        facts["durations"] = " ".join(map(str, cfg.durations))
    return {key: str(value) for key, value in facts.items()}


def _fixed_language(model: SpeechModel, language: str | None) -> SpeechModel:
    """`model` itself, or a copy for one language without the embedding."""
    if language is None:
        return model
    if not model.cfg.language_embedding:
        raise MayaError("this model has no language embedding; leave --language out")
    state = with_language(model.state_dict(), model.cfg, language)
    cfg = dataclasses.replace(model.cfg, language_embedding=False)
    with torch.device("meta"):
        fixed = SpeechModel(cfg)
    names = fixed.state_dict()
    fixed.load_state_dict({k: v for k, v in state.items() if k in names}, assign=True)
    return fixed.eval()


def _graphs(model: SpeechModel, head: Head) -> list[Graph]:
    cfg = model.cfg
    dim, mels = cfg.encoder.d_model, cfg.features.num_mels
    batch, frames = {0: "batch"}, {0: "batch", 2: "frames"}
    rate = model.cfg.features.sample_rate
    audio = {"audio": torch.randn(2, rate) * 0.1, "audio_lens": torch.tensor([rate, rate * 9 // 16])}
    found = [
        Graph(
            name="features",
            module=FeatureGraph(_front_end(model)),
            inputs=audio,
            outputs=("features", "feature_lens"),
            axes={"audio": {0: "batch", 1: "samples"}, "audio_lens": batch, "features": frames}
            | {"feature_lens": batch},
        )
    ]
    signal = {"audio_signal": torch.randn(2, mels, 137), "length": torch.tensor([137, 80])}
    signal_axes: Axes = {"audio_signal": frames, "length": batch}
    if cfg.language_embedding:
        signal["language"] = torch.tensor([0, -1])
        signal_axes["language"] = batch
    if head == "ctc":
        axes = signal_axes | {"logprobs": {0: "batch", 1: "steps"}, "encoded_lengths": batch}
        outputs = ("logprobs", "encoded_lengths")
        graph = Graph(name="model", module=CTCModelGraph(model), inputs=signal, outputs=outputs, axes=axes)
        return [*found, graph]
    axes = signal_axes | {"outputs": {0: "batch", 2: "steps"}, "encoded_lengths": batch}
    outputs = ("outputs", "encoded_lengths")
    found.append(Graph(name="encoder", module=EncoderGraph(model), inputs=signal, outputs=outputs, axes=axes))
    found += _transducer_graphs(model)
    if cfg.ctc_weight > 0:
        steps: Axes = {"encoder_outputs": {0: "batch", 2: "steps"}, "logprobs": {0: "batch", 1: "steps"}}
        enc = {"encoder_outputs": torch.randn(2, dim, 7)}
        graph = Graph(
            name="ctc", module=CTCGraph(model.ctc_decoder), inputs=enc, outputs=("logprobs",), axes=steps
        )
        found.append(graph)
    return found


def _transducer_graphs(model: SpeechModel) -> list[Graph]:
    """Predictor and joint, under the names of NeMo's export."""
    p, batch = nemo_parts(model.cfg, WHAT)[2], 2
    assert isinstance(model.decoder, Predictor)
    state = {0: "layers", 1: "batch"}
    predictor = Graph(
        name="decoder",
        module=PredictorGraph(model.decoder),
        inputs={
            "targets": torch.randint(0, model.blank + 1, (batch, 3), dtype=torch.int32),
            "target_length": torch.full((batch,), 3, dtype=torch.int32),
            "h": torch.randn(p.layers, batch, p.hidden) * 0.1,
            "c": torch.randn(p.layers, batch, p.hidden) * 0.1,
        },
        outputs=("outputs", "prednet_lengths", "next_h", "next_c"),
        axes={
            "targets": {0: "batch", 1: "labels"},
            "target_length": {0: "batch"},
            "outputs": {0: "batch", 2: "labels"},
            "prednet_lengths": {0: "batch"},
        }
        | {name: {1: state[1]} for name in ("h", "c", "next_h", "next_c")},
    )
    joiner = Graph(
        name="joiner",
        module=JoinerGraph(model.joint),
        inputs={
            "encoder_outputs": torch.randn(batch, model.cfg.encoder.d_model, 4),
            "decoder_outputs": torch.randn(batch, p.hidden, 3),
        },
        outputs=("outputs",),
        axes={
            "encoder_outputs": {0: "batch", 2: "steps"},
            "decoder_outputs": {0: "batch", 2: "labels"},
            "outputs": {0: "batch", 1: "steps", 2: "labels"},
        },
    )
    return [predictor, joiner]


def _front_end(model: SpeechModel) -> Any:
    return model.preprocessor["featurizer"]
