"""The configuration of an icefall Zipformer from the shapes of its tensors, compared with the options in its
checkpoint.

Shapes do not show the number of attention heads (icefall's recipes have 4 position channels a head, the
default here), the chunks of causal training, the channels that training never masked, and the losses.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from maya.config import leaves, override
from maya.encoders import ZipformerConfig
from maya.encoders.zipformer import config as zipformer_config
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.features.specaugment import lhotse
from maya.heads import AttentionDecoderConfig, CTCConfig, HeadConfig, TransducerConfig
from maya.heads.transducer import JointConfig, PrunedConfig, StatelessConfig
from maya.models.config import SpeechModelConfig

PRESETS = {
    "Zipformer-S": zipformer_config.small(),
    "Zipformer-M": zipformer_config.medium(),
    "Zipformer-L": zipformer_config.large(),
}
PRESET_FIELDS = (
    *("downsampling", "output_downsampling", "layers", "dims", "ff_dims", "conv_kernels", "front_channels"),
    *("heads", "query_head_dim", "value_head_dim", "pos_head_dim", "pos_dim"),
)
# icefall's option -> Maya's field, for settings that shapes show once the number of heads is known.
SHOWN = {
    "num_encoder_layers": "layers",
    "downsampling_factor": "downsampling",
    "feedforward_dim": "ff_dims",
    "num_heads": "heads",
    "encoder_dim": "dims",
    "query_head_dim": "query_head_dim",
    "value_head_dim": "value_head_dim",
    "pos_head_dim": "pos_head_dim",
    "pos_dim": "pos_dim",
    "cnn_module_kernel": "conv_kernels",
    "causal": "causal",
}
POSITION_CHANNELS = 4  # of a head, in all of icefall's recipes


@dataclass(kw_only=True, slots=True)
class IcefallModel:
    """A configuration without languages, and remarks for the report."""

    config: SpeechModelConfig
    size: str  # such as "Zipformer-M", or "none of the presets"
    heads_source: str  # where the number of attention heads comes from
    warnings: list[str] = field(default_factory=list)


class IcefallSource:
    """A checkpoint: the shapes of its tensors, its options, the user's overrides, and warnings to collect."""

    def __init__(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path, overrides: Sequence[str]
    ) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        self.settings, self.path = settings, path
        self.given = _given(overrides)
        self.warnings: list[str] = []

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def dim(self, name: str, axis: int) -> int:
        """The size of an axis of a tensor. Raises MayaError if the tensor or the axis is missing."""
        shape = self.shapes.get(name)
        if shape is None:
            raise MayaError(f"{self.path} has no {name}, which a Zipformer of icefall has")
        if axis >= len(shape):
            raise MayaError(f"{self.path}: {name} has shape {shape}, unlike any Zipformer of icefall")
        return shape[axis]

    def count(self, prefix: str) -> int:
        """The number of modules below `prefix`: the highest index plus one."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        numbers = [int(m[1]) for name in self.shapes if (m := pattern.match(name))]
        return max(numbers, default=-1) + 1

    def number(self, name: str, default: float) -> float:
        """An option that is a number. Raises MayaError for one that is infinite or not a number."""
        value = self.settings.get(name, default)
        if not isinstance(value, (int, float)):
            return default
        if not math.isfinite(value):
            raise MayaError(f"{self.path}: its option {name} is {value}, not a finite number")
        return float(value)

    def each(self, name: str, size: int) -> tuple[int, ...] | None:
        """An option with a number for each of `size` stacks, or one for all."""
        numbers = _tuple(self.settings.get(name))
        return None if numbers is None else _spread(numbers, size)


def read_config(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()
) -> IcefallModel:
    """The configuration of a model with these tensors, by icefall's names.

    settings: the options in the checkpoint, as far as it has any.
    overrides: "encoder.heads=4,4,4,8,4,4" and so on, fields of `SpeechModelConfig`. They take precedence.

    Raises MayaError for tensors of another kind of model, for options that contradict the shapes, and for
    unknown overrides.
    """
    source = IcefallSource(weights, settings, path, overrides)
    _refuse_other_models(source)
    encoder, heads_source = _encoder(source)
    masks = source.number("time_mask_ratio", 2.5) if settings.get("use_cr_ctc") else 1.0
    config = SpeechModelConfig(
        features=FbankConfig(num_mels=encoder.feat_in),
        specaugment=lhotse(time_mask_ratio=masks),
        encoder=encoder,
        heads=_model_heads(source),
        blank_first=True,
        vocab_size=_vocabulary(source),
    )
    for assignment in overrides:
        override(config, assignment)
    _compare(config, source)
    sizes = [name for name, preset in PRESETS.items() if _same(config.encoder, preset)]
    size = sizes[0] if sizes else "none of the presets"
    return IcefallModel(config=config, size=size, heads_source=heads_source, warnings=source.warnings)


def _refuse_other_models(source: IcefallSource) -> None:
    if source.has("encoder.encoders.0.layers.0.self_attn.in_proj"):
        raise MayaError(
            f"{source.path} is a Zipformer of icefall's older recipes (pruned_transducer_stateless7); Maya "
            "supports the one of the zipformer recipe"
        )
    if not source.has("encoder_embed.") or not source.has("encoder.encoders."):
        names = ", ".join(sorted(source.shapes)[:3])
        raise MayaError(
            f"{source.path} is no Zipformer of icefall: it has no encoder.encoders; it has {names} ..."
        )


def _given(overrides: Sequence[str]) -> dict[str, Any]:
    """The overrides as values by name. Raises MayaError for a name that is no field."""
    heads = {
        "transducer": TransducerConfig(loss="pruned", predictor=StatelessConfig()),
        "ctc": CTCConfig(),
        "attention": AttentionDecoderConfig(),
    }
    example = SpeechModelConfig(encoder=ZipformerConfig(), features=FbankConfig(), heads=heads)
    for assignment in overrides:
        override(example, assignment)
    values = dict(leaves(example))
    return {name: values[name] for name in (text.partition("=")[0].strip() for text in overrides)}


def _encoder(source: IcefallSource) -> tuple[ZipformerConfig, str]:
    """The encoder, and the source of its number of heads."""
    stacks = range(source.count("encoder.encoders."))
    wrapped = [not source.has(f"encoder.encoders.{i}.layers.") for i in stacks]
    inner = [f"encoder.encoders.{i}.{'encoder.' if w else ''}layers." for i, w in enumerate(wrapped)]
    first = [f"{prefix}0." for prefix in inner]
    causal = source.has(f"{first[0]}conv_module1.depthwise_conv.causal_conv.")
    kernel = "conv_module1.depthwise_conv." + ("chunkwise_conv.weight" if causal else "weight")
    factors = [f"encoder.encoders.{i}.downsample.bias" for i in stacks]
    per_stack: dict[str, tuple[int, ...]] = {
        "downsampling": tuple(
            source.dim(name, 0) if w else 1 for name, w in zip(factors, wrapped, strict=True)
        ),
        "layers": tuple(source.count(prefix) for prefix in inner),
        "dims": tuple(source.dim(f"{p}bypass.bypass_scale", 0) for p in first),
        "ff_dims": tuple(source.dim(f"{p}feed_forward2.in_proj.weight", 0) for p in first),
        "conv_kernels": tuple(source.dim(f"{p}{kernel}", 2) for p in first),
    }
    channels = [source.dim(f"encoder_embed.conv.{i}.weight", 0) for i in (0, 4, 7)]
    bins = source.dim("encoder_embed.out.weight", 1) // channels[2]
    # The front end makes (F - 3) // 4 bins of F. F is a multiple of 4 unless the options say otherwise.
    mels = source.given.get("encoder.feat_in") or source.given.get("features.num_mels")
    mels = mels or int(source.number("feature_dim", 4 * bins + 4))
    if (mels - 3) // 4 != bins:
        raise MayaError(
            f"{source.path}: feature_dim={mels} does not fit encoder_embed.out.weight, which takes {bins} "
            f"bins ({4 * bins + 3} to {4 * bins + 6} mel filters)"
        )
    split, heads_source = _attention_heads(source, first)
    options: dict[str, Any] = {**per_stack, **split, "front_channels": tuple(channels), "feat_in": mels}
    options |= {"causal": causal, "pos_dim": source.dim(f"{first[0]}self_attn_weights.linear_pos.weight", 1)}
    options["output_downsampling"] = source.dim("encoder.downsample_output.bias", 0)
    options |= _chunks(source, causal)
    options["unmasked_dims"] = _unmasked(source, options)
    return ZipformerConfig(**options), heads_source


def _attention_heads(source: IcefallSource, first: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Numbers and sizes of heads, and the source. Shapes show the products heads × query size, heads × value
    size and heads × position size."""
    positions = [source.dim(f"{p}self_attn_weights.linear_pos.weight", 0) for p in first]
    both = [source.dim(f"{p}self_attn_weights.in_proj.weight", 0) for p in first]
    values = [source.dim(f"{p}self_attn1.in_proj.weight", 0) for p in first]
    heads = source.given.get("encoder.heads")
    channels, origin = source.given.get("encoder.pos_head_dim"), "as given"
    if heads is None and channels is None:
        heads, origin = source.each("num_heads", len(positions)), "the checkpoint's own options"
    if heads is None and channels is None:
        channels, origin = POSITION_CHANNELS, f"taken as {POSITION_CHANNELS} position channels a head"
    if heads is None:
        assert channels is not None
        heads = tuple(max(1, n // channels) for n in positions)
    if len(heads) != len(positions) or min(heads) < 1:
        raise MayaError(f"{source.path} has {len(positions)} stacks, but encoder.heads={heads}")
    head_dims = {}
    for name, products in (
        ("pos_head_dim", positions),
        ("query_head_dim", [(b - p) / 2 for b, p in zip(both, positions, strict=True)]),
        ("value_head_dim", values),
    ):
        sizes = {n / h for n, h in zip(products, heads, strict=True)}
        if len(sizes) > 1 or not (size := sizes.pop()).is_integer() or size < 1:
            raise MayaError(
                f"{source.path}: {_listed(heads)} heads ({origin}) do not share {_listed(products)} channels "
                f"equally in all stacks ({name}); give encoder.heads=..., one number a stack"
            )
        head_dims[name] = int(size)
    return {"heads": tuple(heads), **head_dims}, origin


def _chunks(source: IcefallSource, causal: bool) -> dict[str, Any]:
    if not causal:
        return {}
    options = (("chunk_size", "chunk_frames"), ("left_context_frames", "left_context_frames"))
    chunks = {field: sizes for option, field in options if (sizes := _tuple(source.settings.get(option)))}
    if len(chunks) < 2:
        source.warnings.append(
            "the file does not name the chunks of the training: icefall's default is used, which matters to "
            "further training only"
        )
    return chunks


def _unmasked(source: IcefallSource, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Channels that training never masks. Shapes do not show them."""
    dims = options["dims"]
    if sizes := source.given.get("encoder.unmasked_dims") or source.each("encoder_unmasked_dim", len(dims)):
        return sizes
    for preset in PRESETS.values():
        if (preset.dims, preset.layers) == (dims, options["layers"]):
            return preset.unmasked_dims
    source.warnings.append(
        "the file does not name the channels that training never masked: all of them are assumed; for "
        "further training give encoder.unmasked_dims=..."
    )
    return dims


def _vocabulary(source: IcefallSource) -> int:
    for name in ("decoder.embedding.weight", "ctc_output.1.weight", "attention_decoder.decoder.embed.weight"):
        if name in source.shapes:
            return source.dim(name, 0)
    raise MayaError(f"{source.path} has no text head: no decoder, no ctc_output and no attention_decoder")


def _model_heads(source: IcefallSource) -> dict[str, HeadConfig]:
    """The heads. icefall adds the losses up with scales; here the weights are scaled to a sum of 1."""
    warmup = int(source.number("warm_step", 2000))
    heads: dict[str, HeadConfig] = {}
    if source.has("decoder.") or source.has("joiner."):
        heads["transducer"] = _transducer(source, warmup)
    has_attention = source.has("attention_decoder.decoder.")
    if source.has("ctc_output."):
        # A head that training gave no weight is a head all the same.
        scale = (source.number("ctc_loss_scale", 0.2) or 0.2) if heads or has_attention else 1.0
        consistency = source.number("cr_loss_scale", 0.2) if source.settings.get("use_cr_ctc") else 0.0
        heads["ctc"] = CTCConfig(
            weight=scale, dropout=0.1, consistency_weight=consistency / scale, consistency_warmup=warmup
        )
    if has_attention:
        heads["attention"] = _attention_decoder(source)
    total = sum(head.weight for head in heads.values())
    for head in heads.values():
        head.weight /= total
    return heads


def _transducer(source: IcefallSource, warmup: int) -> TransducerConfig:
    context = source.dim("decoder.conv.weight", 2) if source.has("decoder.conv.") else 1
    default = PrunedConfig()
    return TransducerConfig(
        loss="pruned",
        predictor=StatelessConfig(hidden=source.dim("decoder.embedding.weight", 1), context=context),
        joint=JointConfig(
            hidden=source.dim("joiner.encoder_proj.weight", 0),
            activation="tanh",
            dropout=0.0,
            init_scale=0.25,
        ),
        pruned=PrunedConfig(
            s_range=int(source.number("prune_range", default.s_range)),
            simple_scale=source.number("simple_loss_scale", default.simple_scale),
            lm_scale=source.number("lm_scale", default.lm_scale),
            am_scale=source.number("am_scale", default.am_scale),
            rnnt_type=source.settings.get("rnnt_type", default.rnnt_type),
            warmup_steps=warmup,
        ),
    )


def _attention_decoder(source: IcefallSource) -> AttentionDecoderConfig:
    prefix = "attention_decoder.decoder."
    dim = source.dim(prefix + "embed.weight", 1)
    heads = source.given.get("heads.attention.heads") or source.number("attention_decoder_num_heads", 0)
    if not heads:
        heads = max(1, dim // 64)
        source.warnings.append(f"the attention decoder is assumed to have {heads} heads, 64 channels each")
    return AttentionDecoderConfig(
        layers=source.count(prefix + "layers."),
        dim=dim,
        heads=int(heads),
        feed_forward=source.dim(prefix + "layers.0.feed_forward.0.weight", 0),
        label_smoothing=source.number("label_smoothing", 0.1),
        weight=source.number("attention_decoder_loss_scale", 0.8) or 0.8,
    )


def _compare(config: SpeechModelConfig, source: IcefallSource) -> None:
    """Compare the checkpoint's options with the shapes. Raises MayaError for a contradiction."""
    # By icefall's option: the field that an override may set, and its value.
    fields: dict[str, tuple[str, Any]] = {
        option: (f"encoder.{field}", getattr(config.encoder, field)) for option, field in SHOWN.items()
    }
    fields |= {"vocab_size": ("vocab_size", config.vocab_size), "blank_id": ("blank", 0)}
    transducer = config.heads.get("transducer")
    if isinstance(transducer, TransducerConfig) and isinstance(transducer.predictor, StatelessConfig):
        predictor, prefix = transducer.predictor, "heads.transducer."
        fields["decoder_dim"] = (f"{prefix}predictor.hidden", predictor.hidden)
        fields["context_size"] = (f"{prefix}predictor.context", predictor.context)
        fields["joiner_dim"] = (f"{prefix}joint.hidden", transducer.joint.hidden)
    options = {"transducer": "use_transducer", "ctc": "use_ctc", "attention": "use_attention_decoder"}
    fields |= {option: (f"heads.{name}", name in config.heads) for name, option in options.items()}
    for option, (name, value) in fields.items():
        saved = source.settings.get(option)
        if saved is None or name in source.given:
            continue
        same = saved == value if isinstance(value, bool) else _alike(_tuple(saved), _tuple(value))
        if not same:
            shown = _listed(value) if isinstance(value, tuple) else value
            raise MayaError(f"{source.path}: its options have {option}={saved}, but its tensors show {shown}")


def _alike(saved: tuple[int, ...] | None, value: tuple[int, ...] | None) -> bool:
    """Whether they are equal; a single number counts for every stack."""
    if saved is None or value is None:
        return False
    size = max(len(saved), len(value))
    return _spread(saved, size) == _spread(value, size)


def _spread(numbers: tuple[int, ...], size: int) -> tuple[int, ...]:
    return numbers * size if len(numbers) == 1 else numbers


def _tuple(value: Any) -> tuple[int, ...] | None:
    """The numbers of an option, "2,2,3", 4 or (4,); None for anything else."""
    if isinstance(value, int):
        return (value,)
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        return None
    try:
        return tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        return None


def _same(encoder: Any, preset: ZipformerConfig) -> bool:
    return all(getattr(encoder, name) == getattr(preset, name) for name in PRESET_FIELDS)


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{n:g}" for n in numbers)
