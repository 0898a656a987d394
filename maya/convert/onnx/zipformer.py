"""Export Zipformers as ONNX graphs for sherpa-onnx, with the names and metadata of icefall's exports: for
whole utterances, or chunk by chunk for causal models."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.conversion import rebuilt
from maya.convert.heads import HeadName, exported_head, transducer_head
from maya.convert.icefall.export import Parts, icefall_parts, with_blank_first
from maya.convert.icefall.tokens import token_table
from maya.convert.onnx.trace import Graph, packages, write
from maya.convert.onnx.zipformer_graphs import (
    DecoderGraph,
    OfflineGraph,
    ProjectedJoinerGraph,
    StreamingGraph,
    initial_states,
    state_axes,
)
from maya.decode.recognizer import Recognizer
from maya.encoders import Zipformer
from maya.encoders.zipformer.config import LOST_FRAMES, Chunking, check_chunking
from maya.encoders.zipformer.front import REACH
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.models.speech_model import SpeechModel

TARGET = "the export to sherpa-onnx"
FRONT_CHANNELS = 128  # of embed_states, written into sherpa-onnx
# An odd number of 20 ms frames. No stack's downsampling divides it, so the trace includes the padding of a
# last group of frames.
TRACED_FRAMES = 2 * 67 + LOST_FRAMES


def to_sherpa_onnx(
    model: Recognizer,
    out: str | Path,
    *,
    head: HeadName | None = None,
    chunk_frames: int | None = None,
    left_frames: int = 128,
    int8: bool = False,
) -> list[Path]:
    """Write a Zipformer as ONNX graphs and tokens.txt into the folder `out`; returns the files.

    For a transducer: encoder.onnx, decoder.onnx and joiner.onnx. With `head` "ctc", or without a trained
    transducer: model.onnx from features to log-probabilities.

    chunk_frames: stream in chunks of so many 20 ms frames, with `left_frames` of context. None is for whole
        utterances, with causal models, too.
    int8: also write *.int8.onnx, with weights of 8 bits.

    A blank that is the last token becomes token 0. Every graph is run once and compared with the model.
    Raises MayaError without the packages of the extra [onnx], for parts that icefall's models lack, for a
    head that is missing or was never trained, and for chunks that do not fit the model.
    """
    packages()
    parts, cfg = icefall_parts(model, TARGET), model.model.cfg
    head = exported_head(model, head)
    model = with_blank_first(model)
    network = _padding_left_out(model.model, parts)
    if chunk_frames is None:
        graph = _offline(network, head)
    else:
        check_chunking(parts.encoder, Chunking(chunk_frames, left_frames))
        if (channels := parts.encoder.front_channels[-1]) != FRONT_CHANNELS:
            raise MayaError(
                f"sherpa-onnx streams front ends with {FRONT_CHANNELS} channels at their end, not {channels}"
            )
        graph = _streaming(network, head, chunk_frames, left_frames)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table = out / "tokens.txt"
    table.write_text(token_table(model.tokenizer.pieces(range(model.tokenizer.vocab_size))), encoding="utf-8")
    facts = metadata(parts, head, chunk_frames, left_frames)
    if (rate := cfg.features.sample_rate) != FbankConfig().sample_rate:
        # sherpa-onnx computes the features; its option --sample-rate is 16000 by default.
        facts["sample_rate"] = str(rate)
    written = [table, *write(graph, out, facts, int8=int8)]
    if head == "transducer":
        assert parts.predictor is not None and parts.heads.transducer is not None
        facts = {"context_size": str(parts.predictor.context), "vocab_size": str(cfg.labels + 1)}
        written += write(_decoder(network, parts.predictor.context), out, facts, int8=int8)
        facts = {"joiner_dim": str(parts.heads.transducer.joint.hidden)}
        written += write(_joiner(network), out, facts, int8=int8)
    return written


def metadata(parts: Parts, head: HeadName, chunk_frames: int | None, left_frames: int) -> dict[str, str]:
    """The metadata that sherpa-onnx reads from an encoder or a CTC model."""
    ctc, e = head == "ctc", parts.encoder
    if chunk_frames is None:
        comment = "non-streaming zipformer2" + (" CTC" if ctc else "")
        kind = "zipformer2_ctc" if ctc else "zipformer2"
        return {"model_type": kind, "version": "1", "model_author": "Maya", "comment": comment}
    stacks = len(e.layers)
    facts: dict[str, Any] = {
        "model_type": "zipformer2", "version": 1, "model_author": "Maya",
        "comment": "streaming ctc zipformer2" if ctc else "streaming zipformer2",
        "decode_chunk_len": 2 * chunk_frames,  # feature frames from chunk to chunk; T is those of a chunk
        "T": 2 * chunk_frames + LOST_FRAMES + 2 * REACH, "num_encoder_layers": e.layers,
        "encoder_dims": e.dims, "cnn_module_kernels": e.conv_kernels, "num_heads": e.heads,
        "left_context_len": [left_frames // factor for factor in e.downsampling],
        "query_head_dims": [e.query_head_dim] * stacks, "value_head_dims": [e.value_head_dim] * stacks,
    }  # fmt: skip
    return {k: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for k, v in facts.items()}


def _padding_left_out(model: SpeechModel, parts: Parts) -> SpeechModel:
    """The model as it is for an utterance alone. icefall's padding depends on the batch."""
    if parts.encoder.padding == "invariant":
        return model
    encoder = dataclasses.replace(parts.encoder, padding="invariant")
    return rebuilt(model, dataclasses.replace(model.cfg, encoder=encoder), model.state_dict())


def _offline(model: SpeechModel, head: HeadName) -> Graph:
    ctc = head == "ctc"
    x = torch.randn(2, TRACED_FRAMES, model.cfg.features.num_mels)
    lens = torch.tensor([TRACED_FRAMES, TRACED_FRAMES - 40])
    out = "log_probs" if ctc else "encoder_out"
    return Graph(
        name="model" if ctc else "encoder", module=OfflineGraph(model, ctc),
        inputs={"x": (x, "N T"), "x_lens": (lens, "N")},
        outputs={out: "N S", "log_probs_len" if ctc else "encoder_out_lens": "N"},
    )  # fmt: skip


def _streaming(model: SpeechModel, head: HeadName, chunk_frames: int, left_frames: int) -> Graph:
    assert isinstance(model.encoder, Zipformer)
    ctc = head == "ctc"
    axes = state_axes(sum(model.encoder.cfg.layers))
    states = [_random(s) for s in initial_states(model.encoder, 2, left_frames)]
    x = torch.randn(2, 2 * chunk_frames + LOST_FRAMES + 2 * REACH, model.cfg.features.num_mels)
    return Graph(
        name="model" if ctc else "encoder", module=StreamingGraph(model, ctc),
        inputs={"x": (x, "N"), **{k: (s, axes[k]) for k, s in zip(axes, states, strict=True)}},
        outputs={"log_probs" if ctc else "encoder_out": "N", **{f"new_{k}": v for k, v in axes.items()}},
    )  # fmt: skip


def _random(state: Tensor) -> Tensor:
    """A state other than zeros for the comparison. The second stream has few frames before."""
    return torch.randn_like(state) if state.is_floating_point() else torch.tensor([1000, 8])


def _decoder(model: SpeechModel, context: int) -> Graph:
    y = torch.randint(0, model.cfg.labels + 1, (2, context))
    y[0, 0] = -1 if context > 1 else 0
    inputs, outputs = {"y": (y, "N")}, {"decoder_out": "N"}
    return Graph(name="decoder", module=DecoderGraph(model), inputs=inputs, outputs=outputs)


def _joiner(model: SpeechModel) -> Graph:
    joint = transducer_head(model).joint
    inputs = {name: (torch.randn(2, joint.cfg.hidden), "N") for name in ("encoder_out", "decoder_out")}
    module = ProjectedJoinerGraph(joint)
    return Graph(name="joiner", module=module, inputs=inputs, outputs={"logit": "N"})
