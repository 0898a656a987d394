"""Export Zipformers for icefall: a `pretrained.pt` that its programs load strictly, and a token table."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maya.convert.conversion import rebuilt
from maya.convert.heads import TextHeads, head_notes, text_heads
from maya.convert.icefall.config import SHOWN
from maya.convert.icefall.names import to_icefall_name, to_icefall_tensor
from maya.convert.icefall.tokens import SENTENCE_END, blank_first, token_table
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.encoders import ZipformerConfig
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.files import replacing
from maya.heads import AttentionDecoder, AttentionDecoderConfig
from maya.heads.transducer import StatelessConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.text.byte_bpe import ByteBPETokenizer
from maya.text.tokenizer import Tokenizer

WEIGHTS, SENTENCEPIECE, BYTE_LEVEL, TABLE = "pretrained.pt", "bpe.model", "bbpe.model", "tokens.txt"
# Parameters with a row for each token and for blank.
BY_TOKEN = (
    "heads.transducer.decoder.embedding.",
    "heads.transducer.joint.joint_net.2.",
    "heads.transducer.simple_joint.",
    "heads.ctc.decoder_layers.0.",
    "heads.attention.embed.",
    "heads.attention.output_layer.",
)


@dataclass(frozen=True, slots=True)
class Parts:
    """The configurations of the parts of a model that icefall's have, too. A model without transducer has no
    `predictor`."""

    encoder: ZipformerConfig
    predictor: StatelessConfig | None
    heads: TextHeads


def icefall_parts(model: Recognizer, target: str) -> Parts:
    """The parts of a model. Raises MayaError, naming the `target` of the export, if icefall lacks one of
    them."""
    cfg = model.model.cfg
    encoder, f = cfg.encoder, cfg.features
    # A subclass may be another network.
    if type(encoder) is not ZipformerConfig or type(f) is not FbankConfig:
        other: Any = f if type(encoder) is ZipformerConfig else encoder
        raise MayaError(f"{target} supports Zipformers on filter banks; this model has {other.kind}")
    if encoder.output_downsampling != 2 or encoder.fast_weights is not None:
        raise MayaError(
            f"{target} supports Zipformers with attention and an output at 25 Hz; this model has another"
        )
    if f != FbankConfig(num_mels=f.num_mels, dither=f.dither, sample_rate=f.sample_rate):
        raise MayaError(f"{target} supports Kaldi's filter banks only with the defaults of FbankConfig")
    heads = text_heads(cfg, target)
    transducer = heads.transducer
    predictor = transducer.predictor if transducer else None
    if predictor is not None and not isinstance(predictor, StatelessConfig):
        raise MayaError(f"{target} supports stateless predictors; this model has {predictor.kind}")
    if transducer and (transducer.loss == "tdt" or transducer.joint.activation != "tanh"):
        raise MayaError(
            f"{target} supports RNN-T with tanh in the joint; this model has {transducer.loss} with "
            f"{transducer.joint.activation}"
        )
    if cfg.language_embedding:
        raise MayaError(f"{target} supports no language embedding, which this model has")
    if type(model.tokenizer) not in (Tokenizer, ByteBPETokenizer):
        raise MayaError(f"{target} supports one SentencePiece tokenizer; this model has another kind")
    return Parts(encoder, predictor, heads)


def with_blank_first(model: Recognizer) -> Recognizer:
    """The same model with blank as token 0, as in icefall and sherpa-onnx. All other ids are one higher."""
    cfg = model.model.cfg
    if cfg.blank_first:
        return model
    heads, attention = dict(cfg.heads), cfg.heads.get("attention")
    if isinstance(attention, AttentionDecoderConfig) and attention.eos is not None:
        eos = 0 if attention.eos == cfg.blank else attention.eos + 1
        heads["attention"] = dataclasses.replace(attention, eos=eos)
    moved = dataclasses.replace(cfg, blank_first=True, vocab_size=cfg.vocab_size + 1, heads=heads)
    state = {
        name: tensor.roll(1, 0) if name.startswith(BY_TOKEN) else tensor
        for name, tensor in model.model.state_dict().items()
    }
    network = rebuilt(model.model, moved, state)
    return Recognizer(
        model=network, tokenizer=blank_first(model.tokenizer), device=model.device, heads=model.heads
    )


def to_icefall(model: Recognizer, out: str | Path) -> ConversionReport:
    """Write `model` into the folder `out` as icefall's pretrained.pt, bpe.model and tokens.txt.

    pretrained.pt also holds the options for icefall's programs, and the report shows them. A blank that is
    the last token becomes the first one. Raises MayaError for parts that icefall's Zipformers do not have.
    """
    parts = icefall_parts(model, "icefall")
    _check(model.model, parts)
    notes = head_notes(model, "icefall")
    if not model.model.cfg.blank_first:
        notes.append("blank was the last token and is the first one now: every other id is one higher")
        model = with_blank_first(model)
    cfg = model.model.cfg
    weights = {name: t.detach().cpu() for name, t in model.model.state_dict().items()}
    if (eos := _sentence_end(model.model)) is not None:
        (piece,) = model.tokenizer.pieces([eos])
        if piece != SENTENCE_END:
            raise MayaError(
                "icefall's attention decoders begin and end with the piece <sos/eos>; this one does with "
                f"{piece!r}"
            )
    named = ((to_icefall_name(name), to_icefall_tensor(name, tensor)) for name, tensor in weights.items())
    state = {name: tensor.contiguous().clone() for name, tensor in named if name}
    if cfg.features.num_mels != 80:
        notes.append(f"set feature_dim in icefall's get_params() to {cfg.features.num_mels}")
    options = icefall_options(cfg, parts)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / WEIGHTS) as partial, open(partial, "wb") as f:
        torch.save({"model": state, **options}, f)
    pieces = model.tokenizer
    if isinstance(pieces, ByteBPETokenizer):
        (out / BYTE_LEVEL).write_bytes(pieces.sentencepiece)
    else:
        (out / SENTENCEPIECE).write_bytes(pieces.model_bytes)
    (out / TABLE).write_text(
        token_table(model.tokenizer.pieces(range(model.tokenizer.vocab_size))), encoding="utf-8"
    )
    return ConversionReport(
        title=f"{out / WEIGHTS}: Zipformer of icefall",
        components=components(cfg, weights),
        facts={
            "vocabulary": f"{cfg.vocab_size} pieces, the first one blank",
            "start icefall's programs with": command_line(options),
        },
        warnings=notes,
    )


def icefall_options(cfg: SpeechModelConfig, parts: Parts) -> dict[str, Any]:
    """icefall's options for a model of this configuration, by the names in its checkpoints."""
    e, transducer, attention = parts.encoder, parts.heads.transducer, parts.heads.attention
    values = {option: getattr(e, field) for option, field in SHOWN.items()}
    values["encoder_unmasked_dim"] = e.unmasked_dims
    if e.causal:
        values |= {"chunk_size": e.chunk_frames, "left_context_frames": e.left_context_frames}
    options = {option: ",".join(map(str, v)) if isinstance(v, tuple) else v for option, v in values.items()}
    options |= {f"{name}_head_dim": str(options[f"{name}_head_dim"]) for name in ("query", "value", "pos")}
    options |= {"use_transducer": transducer is not None, "use_ctc": parts.heads.ctc is not None}
    options["use_attention_decoder"] = attention is not None
    if transducer is not None and parts.predictor is not None:
        options |= {"decoder_dim": parts.predictor.hidden, "context_size": parts.predictor.context}
        options["joiner_dim"] = transducer.joint.hidden
    if attention is not None:
        sizes = {"dim": attention.dim, "attention_dim": attention.dim, "num_layers": attention.layers}
        sizes |= {"num_heads": attention.heads, "feedforward_dim": attention.feed_forward}
        options |= {f"attention_decoder_{name}": size for name, size in sizes.items()}
    return options | {"feature_dim": cfg.features.num_mels, "vocab_size": cfg.vocab_size, "blank_id": 0}


def command_line(options: dict[str, Any]) -> str:
    """The options as typed, without vocabulary and feature size, which are not options."""
    shown = {k: v for k, v in options.items() if k not in ("feature_dim", "vocab_size", "blank_id")}
    values = {k: int(v) if isinstance(v, bool) else v for k, v in shown.items()}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


def _sentence_end(model: SpeechModel) -> int | None:
    """The id with which the attention decoder begins and ends; None without that head."""
    head = model.named_heads().get("attention")
    return head.eos if isinstance(head, AttentionDecoder) else None


def _check(model: SpeechModel, parts: Parts) -> None:
    heads = parts.heads
    if parts.encoder.front_channels != ZipformerConfig().front_channels:
        raise MayaError(f"icefall's front end has 8, 32, 128 channels, not {parts.encoder.front_channels}")
    if heads.transducer and heads.transducer.loss == "rnnt":
        raise MayaError("icefall's transducers have the two projections of pruned RNN-T; this one does not")
    if heads.transducer is None and heads.ctc is None:
        raise MayaError("icefall's models have a transducer or a CTC head; this model has neither")
    if _sentence_end(model) == model.blank:
        raise MayaError(
            "icefall's attention decoders begin and end with the piece <sos/eos>; this one does with blank"
        )
