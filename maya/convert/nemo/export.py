"""Export Maya models as `.nemo` archives that NeMo restores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maya.convert.heads import head_notes, of_language
from maya.convert.nemo import canary
from maya.convert.nemo.archive import REFERENCE, artifact_name, write_archive
from maya.convert.nemo.canary_export import canary_sections, canary_tensors, custom_tokenizer
from maya.convert.nemo.parts import ENCODER, NemoParts, nemo_parts
from maya.convert.nemo.weights import to_nemo_names
from maya.convert.report import ConversionReport, components
from maya.decode.recognizer import Recognizer
from maya.encoders import FastConformerConfig
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.heads import CanaryDecoderConfig, CTCConfig, TransducerConfig
from maya.heads.transducer import PredictorConfig
from maya.models.config import SpeechModelConfig
from maya.text.aggregate import AggregateTokenizer
from maya.text.characters import CharacterTokenizer
from maya.text.tokenizer import Tokenizer

MODULES = "nemo.collections.asr.modules."
CHARACTER_TARGETS = {
    "ctc": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
    "rnnt": "nemo.collections.asr.models.rnnt_models.EncDecRNNTModel",
    "hybrid": "nemo.collections.asr.models.hybrid_rnnt_ctc_models.EncDecHybridRNNTCTCModel",
}
TARGETS = {
    "ctc": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
    "rnnt": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
    "hybrid": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
}
# The version whose yaml and features are written: NeMo 2.5 changed the features.
VERSION, VERSION_BEFORE = "3.0.0", "2.4.0"
UNKNOWN = "unknown"


def to_nemo(model: Recognizer, path: str | Path, *, language: str | None = None) -> ConversionReport:
    """Write `model` as a `.nemo` archive for NeMo's restore_from, with the class its heads ask for.

    language: of a model with a language embedding, which NeMo lacks, the one language to keep, or "unknown"
        for the model without any language. The embedding is added to the bias of the last layer's norm. Of
        one with an output layer for each language, the one to keep.

    Raises MayaError for a missing or unknown language, and for parts that NeMo lacks.
    """
    model, language = of_language(model, language, "NeMo")
    cfg = model.model.cfg
    if canary.HEAD in cfg.heads:
        return _canary(model, Path(path), language)
    parts = nemo_parts(cfg, "NeMo")
    if parts.encoder.output_hidden:
        raise MayaError("NeMo has no place for the layer behind this encoder, into which a prompt was folded")
    if cfg.adapters.type in ("bottleneck", "nemo"):
        raise MayaError(
            "Maya writes no adapters for NeMo, and this model has some; train without, or use LoRA"
        )
    state = {k: v.detach().cpu() for k, v in model.model.state_dict().items()}
    notes = head_notes(model, "NeMo")
    if cfg.language_embedding:
        state = with_language(state, cfg, language)
        notes.append(f"NeMo has no language embedding: this model is for language {language!r} only")
    elif language is not None:
        raise MayaError("this model has no language embedding; leave --language out")
    others = tuple(f"heads.{name}." for name in cfg.heads if name not in cfg.text_heads)
    weights = {k: v for k, v in state.items() if not k.startswith(("language_embedding.", *others))}
    tokenizer, files = _tokenizer(model.tokenizer)
    if parts.features.legacy:
        notes.append("trained on the features from before NeMo 2.5, which later versions do not compute")
    if parts.encoder.conv_norm == "batch_norm" and parts.encoder.masked_norm:
        notes.append("in training NeMo counts padded frames in the batch statistics; Maya did not")
    config = nemo_config(cfg, model.tokenizer) | ({"tokenizer": tokenizer} if tokenizer else {})
    write_archive(Path(path), config, to_nemo_names(weights, parts), files)
    return ConversionReport(
        title=f"{path}: {config['target'].rsplit('.', 1)[-1]}",
        components=components(cfg, weights),
        facts={"vocabulary": f"{model.tokenizer.vocab_size} pieces and a blank"},
        warnings=notes,
    )


def _canary(model: Recognizer, path: Path, language: str | None) -> ConversionReport:
    """The archive of a Canary."""
    cfg, notes = model.model.cfg, head_notes(model, "NeMo")
    if [*cfg.text_heads] != [canary.HEAD] or cfg.language_embedding or cfg.adapters.type != "none":
        raise MayaError(
            "NeMo's Canary has no other text heads, language embedding or adapters; train without"
        )
    if language is not None:
        raise MayaError("Canary's prompt names the language; leave --language out")
    head = cfg.head(canary.HEAD, CanaryDecoderConfig)
    speech = replace(cfg, heads={"ctc": CTCConfig()})
    parts = nemo_parts(speech, "NeMo")
    config = nemo_config(speech, model.tokenizer)
    del config["decoder"], config["labels"]
    section, files = _tokenizer(model.tokenizer)
    section["custom_tokenizer"] = custom_tokenizer(model.tokenizer)
    config |= canary_sections(head, parts.encoder.d_model) | {"tokenizer": section}
    state = model.model.state_dict()
    own = {k: v for k, v in state.items() if k.startswith(("encoder.", "preprocessor."))}
    write_archive(path, config, to_nemo_names(own, parts) | canary_tensors(state, head), files)
    return ConversionReport(
        title=f"{path}: EncDecMultiTaskModel",
        components=components(cfg, dict(state)),
        facts={"vocabulary": f"{model.tokenizer.vocab_size} pieces"},
        warnings=notes,
    )


def with_language(
    weights: dict[str, Tensor], cfg: SpeechModelConfig, language: str | None
) -> dict[str, Tensor]:
    """The weights of a model without language embedding that equals this one for `language`.

    The embedding is added to every frame of the encoder, whose last operation is a layer norm. So the result
    is the same if it is added to that norm's bias. "unknown" adds nothing. Raises MayaError for another
    encoder, and for a language that the model does not have.
    """
    encoder = nemo_parts(cfg, "fixing the language").encoder
    if encoder.output_hidden:
        raise MayaError("this encoder does not end with a norm, into whose bias a language could be folded")
    if language != UNKNOWN and language not in cfg.languages:
        choice = ", ".join((*cfg.languages, UNKNOWN))
        raise MayaError(f"the model has a language embedding: choose --language from {choice}")
    folded = dict(weights)
    if language != UNKNOWN:
        name = f"encoder.layers.{encoder.n_layers - 1}.norm_out.bias"
        embedding = weights["language_embedding.weight"]
        folded[name] = weights[name] + embedding[cfg.languages.index(language or "")]
    return folded


def nemo_config(cfg: SpeechModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The yaml of a model, without its tokenizer section. Raises MayaError for parts that NeMo lacks."""
    parts = nemo_parts(cfg, "NeMo")
    f, e, family = parts.features, parts.encoder, parts.family
    labels = tokenizer.labels if isinstance(tokenizer, CharacterTokenizer) else None
    pieces = [*labels] if labels else tokenizer.pieces(range(tokenizer.vocab_size))
    spec = cfg.specaugment
    ctc_head = {
        "_target_": MODULES + "ConvASRDecoder", "feat_in": e.d_model, "num_classes": len(pieces),
        "vocabulary": pieces,
    }  # fmt: skip
    config: dict[str, Any] = {
        "sample_rate": f.sample_rate, "log_prediction": False,
        # NeMo's transcribe() reads this section; deferred, it needs no data when the model is restored.
        "validation_ds": {
            "manifest_filepath": None, "sample_rate": f.sample_rate, "use_start_end_token": False,
            "defer_setup": True,
        },
        "preprocessor": _features(f), "encoder": encoder_section(e),
        "spec_augment": {
            "_target_": MODULES + "SpectrogramAugmentation", "freq_masks": spec.freq_masks,
            "freq_width": spec.freq_width, "time_masks": spec.time_masks, "time_width": spec.time_width,
        },
    }  # fmt: skip
    if parts.transducer is None or parts.predictor is None:
        config |= {"decoder": ctc_head, "decoding": {"strategy": "greedy"}}
    else:
        config |= _transducer(parts, parts.transducer, parts.predictor, pieces)
        if parts.ctc is not None:
            total = parts.ctc.weight + parts.transducer.weight
            config["aux_ctc"] = {
                "ctc_loss_weight": parts.ctc.weight / total if total else 0.0, "use_cer": False,
                "ctc_reduction": "mean_batch", "decoder": ctc_head, "decoding": {"strategy": "greedy"},
            }  # fmt: skip
    version = VERSION_BEFORE if f.legacy else VERSION
    targets = CHARACTER_TARGETS if labels else TARGETS
    return config | {"labels": pieces, "target": targets[family], "nemo_version": version}


def _features(f: LogMelConfig) -> dict[str, Any]:
    return {
        "_target_": MODULES + "AudioToMelSpectrogramPreprocessor", "sample_rate": f.sample_rate,
        "normalize": "per_feature" if f.normalize == "per_feature" else "NA",
        "window_size": f.window_ms / 1000, "window_stride": f.hop_ms / 1000, "window": "hann",
        "features": f.num_mels, "n_fft": f.n_fft, "preemph": f.preemphasis, "log": True, "frame_splicing": 1,
        "dither": f.dither, "pad_to": 0, "pad_value": 0.0,
    }  # fmt: skip


def encoder_section(e: FastConformerConfig) -> dict[str, Any]:
    """The options of NeMo's ConformerEncoder, as its yaml has them."""
    contexts = [list(pair) for pair in e.att_context_size]
    chunks: dict[str, Any] = {}
    if e.att_chunk_context_size:
        chunks = {
            "att_chunk_context_size": [list(sizes) for sizes in e.att_chunk_context_size],
            "att_context_style": "chunked_limited_with_rc", "conv_context_style": "dcc",
        }  # fmt: skip
    return {
        "_target_": MODULES + "ConformerEncoder", "feat_out": -1,
        **{key: getattr(e, field) for key, (field, _) in ENCODER.items()},
        "subsampling_conv_channels": e.subsampling_channels, "self_attention_model": "rel_pos",
        "att_context_size": contexts if len(contexts) > 1 else contexts[0],
        "att_context_probs": list(e.att_context_probs) or None, "att_context_style": e.att_context_style,
        "pos_emb_max_len": 5000, "conv_norm_type": e.conv_norm,
        "conv_context_size": "causal" if e.conv_context == "causal" else None,
        "stochastic_depth_mode": "linear", "stochastic_depth_start_layer": 1,
    } | chunks  # fmt: skip


def _transducer(
    parts: NemoParts, cfg: TransducerConfig, p: PredictorConfig, pieces: list[str]
) -> dict[str, Any]:
    """Sections of predictor, joint, loss and decoding."""
    j, durations, width = cfg.joint, list(parts.durations), parts.encoder.d_model
    defaults: dict[str, Any] = {"enc_hidden": width, "pred_hidden": p.hidden, "joint_hidden": j.hidden}
    decoding: dict[str, Any] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
    loss: dict[str, Any] = {"loss_name": "default"}
    if durations:
        defaults |= {"tdt_durations": durations, "num_tdt_durations": len(durations)}
        decoding |= {"model_type": "tdt", "durations": durations}
        kwargs = {"fastemit_lambda": 0.0, "clamp": -1.0, "durations": durations}
        loss = {"loss_name": "tdt", "tdt_kwargs": kwargs | {"sigma": cfg.sigma, "omega": cfg.omega}}
    decoder = {
        "_target_": MODULES + "RNNTDecoder", "normalization_mode": None, "random_state_sampling": False,
        "blank_as_pad": True, "vocab_size": len(pieces),
        "prednet": {
            "pred_hidden": p.hidden, "pred_rnn_layers": p.layers, "t_max": None, "dropout": p.dropout,
        },
    }  # fmt: skip
    joint = {
        "_target_": MODULES + "RNNTJoint", "log_softmax": None, "preserve_memory": False,
        "fuse_loss_wer": False, "fused_batch_size": -1, "num_extra_outputs": len(durations),
        "num_classes": len(pieces), "vocabulary": pieces,
        "jointnet": {
            "joint_hidden": j.hidden, "activation": j.activation, "dropout": j.dropout,
            "encoder_hidden": width, "pred_hidden": p.hidden,
        },
    }  # fmt: skip
    sections = {"model_defaults": defaults, "decoder": decoder, "joint": joint}
    return sections | {"decoding": decoding, "loss": loss}


def _tokenizer(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The yaml's section, empty for a model of characters, and the files that it names."""
    if isinstance(tokenizer, CharacterTokenizer):
        return {}, {}
    if isinstance(tokenizer, AggregateTokenizer):
        langs: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for code, part in tokenizer.parts.items():
            langs[code], part_files = _sentencepiece(part)
            files |= part_files
        return {"type": "agg", "langs": langs}, files
    return _sentencepiece(tokenizer)


def _sentencepiece(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The section and files of one model. NeMo requires two lists of pieces, but does not read them."""
    ids = range(tokenizer.vocab_size)
    pieces = tokenizer.pieces(ids)
    scored = "".join(f"{p}\t{s:g}\n" for p, s in zip(pieces, tokenizer.scores(ids), strict=True))
    contents = {
        "model_path": ("tokenizer.model", tokenizer.model_bytes),
        "vocab_path": ("vocab.txt", "".join(f"{piece}\n" for piece in pieces).encode()),
        "spe_tokenizer_vocab": ("tokenizer.vocab", scored.encode()),
    }
    section: dict[str, Any] = {"dir": "", "type": "bpe"}
    files = {}
    for key, (name, content) in contents.items():
        full = artifact_name(content, name)
        files[full] = content
        section[key] = REFERENCE + full
    return section, files
