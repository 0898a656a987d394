"""config.json of a Parakeet folder to Maya's configuration and back. What Maya lacks is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maya.convert.nemo.parts import NemoParts
from maya.encoders import FastConformerConfig
from maya.encoders.hugging_face.folder import read_config
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.files import read_json
from maya.heads import CTCConfig, HeadConfig, TransducerConfig
from maya.heads.transducer import JointConfig, PredictorConfig
from maya.models.config import SpeechModelConfig

CLASSES = {
    "parakeet_ctc": "ParakeetForCTC",
    "parakeet_rnnt": "ParakeetForRNNT",
    "parakeet_tdt": "ParakeetForTDT",
}
# Settings of the encoder: (name in config.json, its default, field of FastConformerConfig).
ENCODER: tuple[tuple[str, Any, str], ...] = (
    ("num_mel_bins", 80, "feat_in"), ("hidden_size", 1024, "d_model"), ("num_hidden_layers", 24, "n_layers"),
    ("num_attention_heads", 8, "n_heads"), ("conv_kernel_size", 9, "conv_kernel"),
    ("subsampling_factor", 8, "subsampling_factor"), ("attention_bias", True, "use_bias"),
    ("subsampling_conv_channels", 256, "subsampling_channels"), ("scale_input", True, "xscaling"),
    ("dropout", 0.1, "dropout_pre_encoder"), ("activation_dropout", 0.1, "dropout"),
    ("dropout_positions", 0.0, "dropout_emb"), ("attention_dropout", 0.1, "dropout_att"),
)  # fmt: skip
# Settings that have one value in Maya.
FIXED = {"hidden_act": "silu", "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
# Settings of the features: (name in processor_config.json, its default).
FEATURES = {"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "n_fft": 512, "win_length": 400,
            "preemphasis": 0.97}  # fmt: skip


@dataclass(kw_only=True, slots=True)
class ParakeetFolder:
    """What a folder says: its kind, Maya's configuration with the vocabulary, remarks."""

    kind: str
    config: SpeechModelConfig
    warnings: list[str] = field(default_factory=list)


def read_parakeet(folder: Path) -> ParakeetFolder:
    """Raises MayaError for another kind of model, and for a setting that Maya does not have."""
    values, warnings = read_config(folder), []
    kind = str(values.get("model_type"))
    if kind not in CLASSES:
        raise MayaError(
            f"{folder} holds a model of type {kind!r}; Maya reads {', '.join(CLASSES)} as whole models, and "
            "some others as encoders, see docs/models.md"
        )
    inner = values.get("encoder_config") or {}
    encoder = _read_encoder(folder, inner)
    if inner.get("layerdrop", 0.1):
        warnings.append("layerdrop is left out (training only)")
    blank = values.get("pad_token_id", 1024) if kind == "parakeet_ctc" else values.get("blank_token_id", 8192)
    size = int(values.get("vocab_size", 1025 if kind == "parakeet_ctc" else 8193))
    if blank != size - 1:
        raise MayaError(
            f"{folder}: the blank is token {blank} of {size}; Maya reads models that have it last"
        )
    heads: dict[str, HeadConfig] = {"ctc": CTCConfig()}
    if kind != "parakeet_ctc":
        heads = {"transducer": _read_transducer(folder, values, kind)}
    features = _read_features(folder, encoder)
    config = SpeechModelConfig(features=features, encoder=encoder, heads=heads, vocab_size=size - 1)
    return ParakeetFolder(kind=kind, config=config, warnings=warnings)


def _read_encoder(folder: Path, values: Mapping[str, Any]) -> FastConformerConfig:
    try:
        encoder = FastConformerConfig(**{own: values.get(name, default) for name, default, own in ENCODER})
        encoder.ff_expansion = values.get("intermediate_size", 4096) // encoder.d_model
    except (MayaError, TypeError) as error:
        raise MayaError(f"{folder}: {error}") from None
    expected = {
        **FIXED, "convolution_bias": encoder.use_bias, "num_key_value_heads": encoder.n_heads,
        "head_dim": encoder.d_model // encoder.n_heads,
        "intermediate_size": encoder.ff_expansion * encoder.d_model,
    }  # fmt: skip
    for name, right in expected.items():
        if values.get(name, right) != right:
            raise MayaError(f"{folder}: encoder_config.{name} is {values[name]!r}; Maya supports {right!r}")
    return encoder


def _read_transducer(folder: Path, values: Mapping[str, Any], kind: str) -> TransducerConfig:
    hidden, activation = int(values.get("decoder_hidden_size", 640)), values.get("hidden_act", "relu")
    if activation not in ("relu", "tanh", "sigmoid"):
        raise MayaError(f"{folder}: hidden_act is {activation!r}; Maya's joint has relu, tanh or sigmoid")
    layers = int(values.get("num_decoder_layers", 2))
    head = TransducerConfig(
        loss="rnnt",
        predictor=PredictorConfig(hidden=hidden, layers=layers),
        joint=JointConfig(hidden=hidden, activation=activation),
    )
    if kind == "parakeet_tdt":
        head.loss, head.durations = "tdt", tuple(values.get("durations", (0, 1, 2, 3, 4)))
    return head


def _read_features(folder: Path, encoder: FastConformerConfig) -> LogMelConfig:
    """Those of processor_config.json, else preprocessor_config.json, else Parakeet's own."""
    values = read_json(folder / "processor_config.json").get("feature_extractor")
    values = values or read_json(folder / "preprocessor_config.json")
    kind = values.get("feature_extractor_type", "ParakeetFeatureExtractor")
    if kind != "ParakeetFeatureExtractor":
        raise MayaError(f"{folder}: its features are those of {kind}; Maya reads ParakeetFeatureExtractor")
    f = {name: values.get(name, default) for name, default in FEATURES.items()}
    if values and f["feature_size"] != encoder.feat_in:
        raise MayaError(f"{folder}: {f['feature_size']} mel bins do not fit an encoder of {encoder.feat_in}")
    rate = f["sampling_rate"]
    return LogMelConfig(
        sample_rate=rate, num_mels=encoder.feat_in, n_fft=f["n_fft"], window_ms=1000 * f["win_length"] / rate,
        hop_ms=1000 * f["hop_length"] / rate, preemphasis=f["preemphasis"] or 0.0,
    )  # fmt: skip


def check_parts(parts: NemoParts) -> None:
    """Raises MayaError for a model that transformers' Parakeet cannot be."""
    e, f, head = parts.encoder, parts.features, parts.transducer
    problems = {
        "layer norm in its convolutions": e.conv_norm != "batch_norm",
        "causal convolutions": e.conv_context == "causal" or e.causal_downsampling,
        "limited attention": e.att_context_size != ((-1, -1),),
        "position biases that its layers share": not e.untie_biases,
        "features that are not normalised": f.normalize != "per_feature",
        "a joint of another width than its predictor":
            head is not None and parts.predictor is not None and head.joint.hidden != parts.predictor.hidden,
    }  # fmt: skip
    for problem, has_it in problems.items():
        if has_it:
            raise MayaError(f"Hugging Face's Parakeet cannot hold {problem}; export .nemo instead")


def write_config(parts: NemoParts, kind: str, blank: int, pad: int) -> dict[str, Any]:
    """config.json. kind: a key of CLASSES. blank, pad: their ids."""
    e = parts.encoder
    encoder: dict[str, Any] = {name: getattr(e, own) for name, _, own in ENCODER}
    encoder |= FIXED | {
        "model_type": "parakeet_encoder", "intermediate_size": e.ff_expansion * e.d_model, "layerdrop": 0.0,
        "convolution_bias": e.use_bias, "max_position_embeddings": 5000,
    }  # fmt: skip
    config: dict[str, Any] = {
        "architectures": [CLASSES[kind]], "model_type": kind, "dtype": "float32", "vocab_size": blank + 1,
        "pad_token_id": pad, "encoder_config": encoder,
    }  # fmt: skip
    if parts.transducer is None or kind == "parakeet_ctc" or parts.predictor is None:
        return config | {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
    config |= {
        "decoder_hidden_size": parts.predictor.hidden, "num_decoder_layers": parts.predictor.layers,
        "hidden_act": parts.transducer.joint.activation, "max_symbols_per_step": 10, "blank_token_id": blank,
        "is_encoder_decoder": True,
    }  # fmt: skip
    return config | ({"durations": list(parts.durations)} if kind == "parakeet_tdt" else {})


def write_features(f: LogMelConfig) -> dict[str, Any]:
    """preprocessor_config.json, and the section of processor_config.json."""
    return {
        "feature_extractor_type": "ParakeetFeatureExtractor", "feature_size": f.num_mels,
        "sampling_rate": f.sample_rate, "hop_length": f.hop_samples, "n_fft": f.n_fft,
        "win_length": round(f.window_ms * f.sample_rate / 1000), "preemphasis": f.preemphasis,
        "padding_value": 0.0, "padding_side": "right", "return_attention_mask": True,
    }  # fmt: skip
