"""Zipformers for icefall: a `pretrained.pt` that its programs load strictly, and their token table."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.convert.export_head import untrained_notes
from maya.convert.icefall_names import to_icefall_name, to_icefall_tensor
from maya.convert.icefall_tokens import SENTENCE_END, blank_first, token_table
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.encoders import ZipformerConfig
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.files import replacing
from maya.heads.transducer import StatelessConfig
from maya.models.hybrid import HybridConfig, HybridModel
from maya.text.tokenizer import Tokenizer

WEIGHTS, SENTENCEPIECE, TABLE = "pretrained.pt", "bpe.model", "tokens.txt"
# Parameters with a row for each token, the blank among them.
BY_TOKEN = (
    "decoder.embedding.",
    "joint.joint_net.2.",
    "simple_joint.",
    "ctc_decoder.decoder_layers.0.",
    "attention_decoder.embed.",
    "attention_decoder.output_layer.",
)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a model that icefall's have; `predictor` is None without a transducer."""

    encoder: ZipformerConfig
    predictor: StatelessConfig | None


def icefall_parts(model: Recognizer, what: str) -> Parts:
    """MayaError, saying that `what` knows no others, unless all parts of a model are such as icefall has."""
    cfg = model.model.cfg
    encoder, predictor = cfg.encoder, cfg.predictor
    if not isinstance(encoder, ZipformerConfig) or not isinstance(cfg.features, FbankConfig):
        kind = encoder.kind if not isinstance(encoder, ZipformerConfig) else cfg.features.kind
        raise MayaError(f"{what} knows Zipformers on filter banks; this model has {kind}")
    if encoder.output_downsampling != 2 or encoder.fast_weights is not None:
        raise MayaError(f"{what} knows Zipformers with attention and an output at 25 Hz; this one is another")
    f = cfg.features
    if f != FbankConfig(num_mels=f.num_mels, dither=f.dither, sample_rate=f.sample_rate):
        raise MayaError(
            f"{what} knows Kaldi's filter banks with the settings of FbankConfig's defaults alone"
        )
    if cfg.transducer != "none" and not isinstance(predictor, StatelessConfig):
        raise MayaError(f"{what} knows stateless predictors; this model has {predictor.kind}")
    if cfg.transducer != "none" and (cfg.transducer == "tdt" or cfg.joint.activation != "tanh"):
        raise MayaError(
            f"{what} knows RNN-T with tanh in the joint; this model has {cfg.transducer} with "
            f"{cfg.joint.activation}"
        )
    if cfg.language_embedding:
        raise MayaError(f"{what} knows no language embedding, which this model has")
    if type(model.tokenizer) is not Tokenizer:
        raise MayaError(f"{what} knows one SentencePiece tokenizer; this model has another kind")
    if cfg.transducer == "none":
        return Parts(encoder, None)
    assert isinstance(predictor, StatelessConfig)
    return Parts(encoder, predictor)


def with_blank_first(model: Recognizer) -> Recognizer:
    """The same model with blank as token 0, as icefall and sherpa-onnx have it, and all others one higher."""
    cfg = model.model.cfg
    if cfg.blank_first:
        return model
    decoder = cfg.attention_decoder
    if decoder.eos is not None:
        decoder = dataclasses.replace(decoder, eos=0 if decoder.eos == cfg.blank else decoder.eos + 1)
    moved = dataclasses.replace(
        cfg, blank_first=True, vocab_size=cfg.vocab_size + 1, attention_decoder=decoder
    )
    state = {
        name: tensor.roll(1, 0) if name.startswith(BY_TOKEN) else tensor
        for name, tensor in model.model.state_dict().items()
    }
    network = rebuilt(model.model, moved, state)
    return Recognizer(
        model=network, tokenizer=blank_first(model.tokenizer), device=model.device, heads=model.heads
    )


def rebuilt(model: HybridModel, cfg: HybridConfig, state: dict[str, Tensor]) -> HybridModel:
    """A model of another configuration with these tensors, which it does not copy, and `model`'s features."""
    with torch.device("meta"):
        network = HybridModel(cfg)
    network.preprocessor = model.preprocessor  # its buffers are in no state dict
    network.load_state_dict(state, assign=True)
    return network.eval()


def to_icefall(model: Recognizer, out: str | Path) -> ConversionReport:
    """Write `model` into the folder `out` as icefall's pretrained.pt, bpe.model and tokens.txt.

    pretrained.pt also holds the options that icefall's programs have to be started with, which the report
    shows. A model whose blank is the last token has it moved to the front. Raises MayaError for parts that
    icefall's Zipformers do not have.
    """
    parts = icefall_parts(model, "icefall")
    cfg = model.model.cfg
    _check(model, cfg, parts)
    notes = untrained_notes(model)
    if not cfg.blank_first:
        notes.append("blank was the last token and is the first one now: every other id is one higher")
        model = with_blank_first(model)
        cfg = model.model.cfg
    weights = {name: t.detach().cpu() for name, t in model.model.state_dict().items()}
    pieces = model.tokenizer.pieces(range(model.tokenizer.vocab_size))
    if cfg.attention_weight and pieces[model.model.attention_decoder.eos] != SENTENCE_END:
        raise MayaError(
            "icefall's attention decoders begin and end with the piece <sos/eos>; this one does with "
            f"{pieces[model.model.attention_decoder.eos]!r}"
        )
    state = icefall_state(weights)
    if left := sorted(set(weights) - {n for n in weights if to_icefall_name(n)}):
        notes.append(f"left out, as icefall has no such head: {', '.join(left)}")
    if cfg.features.num_mels != 80:
        notes.append(f"set feature_dim in icefall's get_params() to {cfg.features.num_mels}")
    options = icefall_options(cfg, parts)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / WEIGHTS) as partial, open(partial, "wb") as f:
        torch.save({"model": state, **options}, f)
    (out / SENTENCEPIECE).write_bytes(model.tokenizer.model_bytes)
    (out / TABLE).write_text(token_table(model.tokenizer), encoding="utf-8")
    return ConversionReport(
        title=f"{out / WEIGHTS}: Zipformer of icefall",
        components=components(cfg, weights),
        facts={
            "vocabulary": f"{cfg.vocab_size} pieces, the first one blank",
            "start icefall's programs with": command_line(options),
        },
        warnings=notes,
    )


def icefall_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """icefall's state dict from ours, without what icefall has no name for."""
    named = ((to_icefall_name(name), to_icefall_tensor(name, tensor)) for name, tensor in weights.items())
    return {name: tensor.contiguous().clone() for name, tensor in named if name}


def icefall_options(cfg: HybridConfig, parts: Parts) -> dict[str, Any]:
    """icefall's options for a model of this configuration, by the names that its checkpoints have them."""
    e, a = parts.encoder, cfg.attention_decoder
    listed: dict[str, tuple[int, ...]] = {
        "num_encoder_layers": e.layers,
        "downsampling_factor": e.downsampling,
        "feedforward_dim": e.ff_dims,
        "num_heads": e.heads,
        "encoder_dim": e.dims,
        "encoder_unmasked_dim": e.unmasked_dims,
        "cnn_module_kernel": e.conv_kernels,
        "query_head_dim": (e.query_head_dim,),
        "value_head_dim": (e.value_head_dim,),
        "pos_head_dim": (e.pos_head_dim,),
    }
    if e.causal:
        listed |= {"chunk_size": e.chunk_frames, "left_context_frames": e.left_context_frames}
    options: dict[str, Any] = {name: ",".join(map(str, sizes)) for name, sizes in listed.items()}
    options |= {"pos_dim": e.pos_dim, "causal": e.causal, "use_transducer": parts.predictor is not None}
    options |= {"use_ctc": cfg.ctc_weight > 0, "use_attention_decoder": cfg.attention_weight > 0}
    if parts.predictor is not None:
        options |= {
            "decoder_dim": parts.predictor.hidden,
            "context_size": parts.predictor.context,
            "joiner_dim": cfg.joint.hidden,
        }
    if cfg.attention_weight > 0:
        options |= {
            "attention_decoder_dim": a.dim,
            "attention_decoder_attention_dim": a.dim,
            "attention_decoder_num_layers": a.layers,
            "attention_decoder_num_heads": a.heads,
            "attention_decoder_feedforward_dim": a.feed_forward,
        }
    return options | {"feature_dim": cfg.features.num_mels, "vocab_size": cfg.vocab_size, "blank_id": 0}


def command_line(options: dict[str, Any]) -> str:
    """The options as one types them; vocabulary and feature size come from elsewhere."""
    shown = {k: v for k, v in options.items() if k not in ("feature_dim", "vocab_size", "blank_id")}
    values = {k: int(v) if isinstance(v, bool) else v for k, v in shown.items()}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


def _check(model: Recognizer, cfg: HybridConfig, parts: Parts) -> None:
    if parts.encoder.front_channels != ZipformerConfig().front_channels:
        raise MayaError(f"icefall's front end has 8, 32, 128 channels, not {parts.encoder.front_channels}")
    if cfg.transducer == "rnnt":
        raise MayaError("icefall's transducers have the two projections of pruned RNN-T; this one has not")
    if cfg.transducer == "none" and cfg.ctc_weight == 0:
        raise MayaError("icefall's models have a transducer or CTC; this one has an attention decoder alone")
    if cfg.attention_weight and model.model.attention_decoder.eos == cfg.blank:
        raise MayaError(
            "icefall's attention decoders begin and end with the piece <sos/eos>; this one does with blank"
        )
