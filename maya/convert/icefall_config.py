"""What a Zipformer of icefall is: its configuration from the shapes of its tensors, checked against the
options that the checkpoint holds.

Shapes tell everything but these: how many heads share an attention's channels (icefall gives each head 4
channels for positions, and so is it taken unless the options or the user say otherwise), the chunks that a
causal model was trained with, which channels training never masked, and everything about losses.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from maya.config import override
from maya.convert.icefall_names import to_icefall_name
from maya.encoders import ZipformerConfig
from maya.encoders.zipformer import config as zipformer_config
from maya.errors import MayaError
from maya.features import FbankConfig
from maya.features.specaugment import lhotse
from maya.heads.attention import AttentionDecoderConfig
from maya.heads.transducer import JointConfig, PrunedConfig, StatelessConfig
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import hybrid

PRESETS = {
    "Zipformer-S": zipformer_config.small(),
    "Zipformer-M": zipformer_config.medium(),
    "Zipformer-L": zipformer_config.large(),
}
VISIBLE = (
    "downsampling",
    "output_downsampling",
    "layers",
    "dims",
    "ff_dims",
    "conv_kernels",
    "front_channels",
)
# icefall's option, our field, of what shapes show, or show once the heads are known.
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
    """A configuration without vocabulary-dependent languages, and what to tell of how it was found."""

    config: SpeechModelConfig
    size: str  # "Zipformer-M", or that it is none of the presets
    heads: str  # where the number of heads is known from
    warnings: list[str] = field(default_factory=list)


class Shapes:
    """The shapes of a checkpoint's tensors; asking for one that is missing names it."""

    def __init__(self, weights: Mapping[str, Tensor], path: Path) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        self.path = path

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def dim(self, name: str, axis: int) -> int:
        shape = self.shapes.get(name)
        if shape is None:
            raise MayaError(f"{self.path} has no {name}, which a Zipformer of icefall has")
        if axis >= len(shape):
            raise MayaError(f"{self.path}: {name} has shape {shape}, which is of no Zipformer of icefall")
        return shape[axis]

    def count(self, prefix: str) -> int:
        """How many modules are numbered behind `prefix`: the highest number and one."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        numbers = [int(m[1]) for name in self.shapes if (m := pattern.match(name))]
        return max(numbers, default=-1) + 1


def read_config(
    weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    path: Path,
    overrides: Sequence[str] = (),
) -> IcefallModel:
    """The configuration of a model with these tensors, by icefall's names.

    settings: the options in the checkpoint, as far as there are any.
    overrides: "encoder.heads=4,4,4,8,4,4" and so on, fields of `SpeechModelConfig`, which come before all else.

    Raises MayaError for tensors of another kind of model, for options that contradict the shapes, and for
    overrides that are no field.
    """
    shapes = Shapes(weights, path)
    _refuse_other_models(shapes)
    warnings: list[str] = []
    given = _given(overrides)
    encoder, heads = _encoder(shapes, settings, given, warnings)
    masking = _number(settings, "time_mask_ratio", 2.5) if settings.get("use_cr_ctc") else 1.0
    config = hybrid(
        features=FbankConfig(num_mels=encoder.feat_in),
        specaugment=lhotse(time_mask_ratio=masking),
        encoder=encoder,
        blank_first=True,
        vocab_size=_vocabulary(shapes),
        loss_warmup=int(_number(settings, "warm_step", 2000)),
        ctc_dropout=0.1,
    )
    _transducer(config, shapes, settings)
    _attention_decoder(config, shapes, settings, given, warnings)
    _shares(config, settings)
    for assignment in overrides:
        override(config, assignment)
    _compare(config, settings, path, given)
    size = next((name for name, preset in PRESETS.items() if _same(config.encoder, preset)), "")
    return IcefallModel(config=config, size=size or "none of the presets", heads=heads, warnings=warnings)


def _refuse_other_models(shapes: Shapes) -> None:
    if shapes.has("encoder.encoders.0.layers.0.self_attn.in_proj"):
        raise MayaError(
            f"{shapes.path} is a Zipformer of icefall's older recipes (pruned_transducer_stateless7); Maya "
            "knows the one of the zipformer recipe"
        )
    if not shapes.has("encoder_embed.") or not shapes.has("encoder.encoders."):
        names = ", ".join(sorted(shapes.shapes)[:3])
        raise MayaError(
            f"{shapes.path} is no Zipformer of icefall: it has no encoder.encoders, but {names} ..."
        )


def _given(overrides: Sequence[str]) -> dict[str, Any]:
    """The overrides as values by name; those that are no fields are refused."""
    found = {}
    for assignment in overrides:
        probe = hybrid(encoder=ZipformerConfig(), predictor=StatelessConfig(), features=FbankConfig())
        override(probe, assignment)
        name = assignment.partition("=")[0].strip()
        node: Any = probe
        for part in name.split("."):
            node = getattr(node, part)
        found[name] = node
    return found


def _encoder(
    shapes: Shapes, settings: Mapping[str, Any], given: Mapping[str, Any], warnings: list[str]
) -> tuple[ZipformerConfig, str]:
    """The encoder, and where its heads are known from."""
    stacks = range(shapes.count("encoder.encoders."))
    wrapped = [not shapes.has(f"encoder.encoders.{i}.layers.") for i in stacks]
    inner = [f"encoder.encoders.{i}.{'encoder.' if w else ''}layers." for i, w in enumerate(wrapped)]
    first = [f"{prefix}0." for prefix in inner]
    causal = shapes.has(f"{first[0]}conv_module1.depthwise_conv.causal_conv.")
    kernel = "conv_module1.depthwise_conv." + ("chunkwise_conv.weight" if causal else "weight")
    factors = [f"encoder.encoders.{i}.downsample.bias" for i in stacks]
    per_stack: dict[str, tuple[int, ...]] = {
        "downsampling": tuple(
            shapes.dim(name, 0) if w else 1 for name, w in zip(factors, wrapped, strict=True)
        ),
        "layers": tuple(shapes.count(prefix) for prefix in inner),
        "dims": tuple(shapes.dim(f"{p}bypass.bypass_scale", 0) for p in first),
        "ff_dims": tuple(shapes.dim(f"{p}feed_forward2.in_proj.weight", 0) for p in first),
        "conv_kernels": tuple(shapes.dim(f"{p}{kernel}", 2) for p in first),
    }
    channels = [shapes.dim(f"encoder_embed.conv.{i}.weight", 0) for i in (0, 4, 7)]
    bins = shapes.dim("encoder_embed.out.weight", 1) // channels[2]
    # The front end makes (F - 3) // 4 bins of F: F is a multiple of 4 unless the options say otherwise.
    mels = given.get("encoder.feat_in") or given.get("features.num_mels")
    mels = mels or int(_number(settings, "feature_dim", 4 * bins + 4))
    if (mels - 3) // 4 != bins:
        raise MayaError(
            f"{shapes.path}: feature_dim={mels} does not fit encoder_embed.out.weight, which takes {bins} "
            f"bins ({4 * bins + 3} to {4 * bins + 6} mel filters)"
        )
    split, how = _heads(shapes, first, settings, given)
    options: dict[str, Any] = {**per_stack, **split, "front_channels": tuple(channels), "feat_in": mels}
    options |= {"causal": causal, "pos_dim": shapes.dim(f"{first[0]}self_attn_weights.linear_pos.weight", 1)}
    options["output_downsampling"] = shapes.dim("encoder.downsample_output.bias", 0)
    options |= _chunks(settings, causal, warnings)
    options["unmasked_dims"] = _unmasked(settings, options, given, warnings)
    return ZipformerConfig(**options), how


def _heads(
    shapes: Shapes, first: Collection[str], settings: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Heads and their sizes: shapes have the products heads x query, heads x value and heads x position."""
    positions = [shapes.dim(f"{p}self_attn_weights.linear_pos.weight", 0) for p in first]
    both = [shapes.dim(f"{p}self_attn_weights.in_proj.weight", 0) for p in first]
    values = [shapes.dim(f"{p}self_attn1.in_proj.weight", 0) for p in first]
    heads = given.get("encoder.heads")
    channels, how = given.get("encoder.pos_head_dim"), "as given"
    if heads is None and channels is None:
        heads, how = _each(settings, "num_heads", len(positions)), "the checkpoint's own options"
    if heads is None and channels is None:
        channels, how = POSITION_CHANNELS, f"taken as {POSITION_CHANNELS} position channels a head"
    if heads is None:
        assert channels is not None
        heads = tuple(max(1, n // channels) for n in positions)
    if len(heads) != len(positions) or min(heads) < 1:
        raise MayaError(f"{shapes.path} has {len(positions)} stacks, but encoder.heads={heads}")
    found = {}
    for name, products in (
        ("pos_head_dim", positions),
        ("query_head_dim", [(b - p) / 2 for b, p in zip(both, positions, strict=True)]),
        ("value_head_dim", values),
    ):
        sizes = {n / h for n, h in zip(products, heads, strict=True)}
        if len(sizes) > 1 or not (size := sizes.pop()).is_integer() or size < 1:
            raise MayaError(
                f"{shapes.path}: {_listed(heads)} heads ({how}) do not share {_listed(products)} channels "
                f"equally in all stacks ({name}); give encoder.heads=..., one number a stack"
            )
        found[name] = int(size)
    return {"heads": tuple(heads), **found}, how


def _chunks(settings: Mapping[str, Any], causal: bool, warnings: list[str]) -> dict[str, Any]:
    if not causal:
        return {}
    told = {
        ours: sizes
        for theirs, ours in (("chunk_size", "chunk_frames"), ("left_context_frames", "left_context_frames"))
        if (sizes := _tuple(settings.get(theirs)))
    }
    if len(told) < 2:
        warnings.append(
            "the chunks that the model was trained with are not in the file: taken as icefall's default, "
            "which matters to training alone"
        )
    return told


def _unmasked(
    settings: Mapping[str, Any], options: Mapping[str, Any], given: Mapping[str, Any], warnings: list[str]
) -> tuple[int, ...]:
    """Channels that training never masks, which leave no trace in shapes."""
    dims = options["dims"]
    if told := given.get("encoder.unmasked_dims") or _each(settings, "encoder_unmasked_dim", len(dims)):
        return told
    for preset in PRESETS.values():
        if (preset.dims, preset.layers) == (dims, options["layers"]):
            return preset.unmasked_dims
    warnings.append(
        "which channels training never masked is not in the file: taken as all; for training on, give "
        "encoder.unmasked_dims=..."
    )
    return dims


def _vocabulary(shapes: Shapes) -> int:
    for name in ("decoder.embedding.weight", "ctc_output.1.weight", "attention_decoder.decoder.embed.weight"):
        if name in shapes.shapes:
            return shapes.dim(name, 0)
    raise MayaError(
        f"{shapes.path} has no decoder, no ctc_output and no attention_decoder: nothing that writes text"
    )


def _transducer(config: SpeechModelConfig, shapes: Shapes, settings: Mapping[str, Any]) -> None:
    if not (shapes.has("decoder.") or shapes.has("joiner.")):
        config.transducer = "none"
        return
    hidden = shapes.dim("decoder.embedding.weight", 1)
    context = shapes.dim("decoder.conv.weight", 2) if shapes.has("decoder.conv.") else 1
    config.transducer = "pruned"
    config.predictor = StatelessConfig(hidden=hidden, context=context)
    width = shapes.dim("joiner.encoder_proj.weight", 0)
    config.joint = JointConfig(hidden=width, activation="tanh", dropout=0.0, init_scale=0.25)
    default = PrunedConfig()
    config.pruned = PrunedConfig(
        s_range=int(_number(settings, "prune_range", default.s_range)),
        simple_scale=_number(settings, "simple_loss_scale", default.simple_scale),
        lm_scale=_number(settings, "lm_scale", default.lm_scale),
        am_scale=_number(settings, "am_scale", default.am_scale),
        rnnt_type=settings.get("rnnt_type", default.rnnt_type),
    )


def _attention_decoder(
    config: SpeechModelConfig,
    shapes: Shapes,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    warnings: list[str],
) -> None:
    prefix = "attention_decoder.decoder."
    config.attention_weight = 1.0 if shapes.has(prefix) else 0.0
    config.ctc_weight = 1.0 if shapes.has("ctc_output.") else 0.0
    if not config.attention_weight:
        return
    dim, told = shapes.dim(prefix + "embed.weight", 1), settings.get("attention_decoder_num_heads")
    heads = given.get("attention_decoder.heads") or told
    if heads is None:
        heads = max(1, dim // 64)
        warnings.append(f"the heads of the attention decoder are taken as {heads}, 64 channels each")
    config.attention_decoder = AttentionDecoderConfig(
        layers=shapes.count(prefix + "layers."),
        dim=dim,
        heads=int(heads),
        feed_forward=shapes.dim(prefix + "layers.0.feed_forward.0.weight", 0),
        label_smoothing=_number(settings, "label_smoothing", 0.1),
    )


def _shares(config: SpeechModelConfig, settings: Mapping[str, Any]) -> None:
    """Weights of the losses, which icefall adds up with scales and Maya with shares of 1."""
    transducer = 0.0 if config.transducer == "none" else 1.0
    # A head that training gave no weight is a head all the same.
    ctc = (_number(settings, "ctc_loss_scale", 0.2) or 0.2) if config.ctc_weight else 0.0
    attention = _number(settings, "attention_decoder_loss_scale", 0.8) or 0.8
    attention = attention if config.attention_weight else 0.0
    if not transducer and not attention:
        ctc = 1.0
    if config.ctc_weight and settings.get("use_cr_ctc"):
        config.cr_ctc_weight = _number(settings, "cr_loss_scale", 0.2) / ((transducer + ctc) or 1.0)
    config.ctc_weight = ctc / ((transducer + ctc) or 1.0)
    config.attention_weight = attention / ((transducer + ctc + attention) or 1.0)


def _compare(
    config: SpeechModelConfig, settings: Mapping[str, Any], path: Path, given: Mapping[str, Any]
) -> None:
    """Hold the checkpoint's own options against what the shapes say; MayaError for a contradiction."""
    found: dict[str, tuple[str, Any]] = {
        theirs: (f"encoder.{ours}", getattr(config.encoder, ours)) for theirs, ours in SHOWN.items()
    }
    found |= {"vocab_size": ("vocab_size", config.vocab_size), "blank_id": ("blank", 0)}
    if config.transducer != "none":
        assert isinstance(config.predictor, StatelessConfig)
        found["decoder_dim"] = ("predictor.hidden", config.predictor.hidden)
        found["context_size"] = ("predictor.context", config.predictor.context)
        found["joiner_dim"] = ("joint.hidden", config.joint.hidden)
    for name, has in (
        ("use_transducer", config.transducer != "none"),
        ("use_ctc", config.ctc_weight > 0),
        ("use_attention_decoder", config.attention_weight > 0),
    ):
        found[name] = (name, has)
    for option, (ours, value) in found.items():
        said = settings.get(option)
        if said is None or ours in given:
            continue
        same = said == value if isinstance(value, bool) else _alike(_tuple(said), _tuple(value))
        if not same:
            shown = _listed(value) if isinstance(value, tuple) else value
            raise MayaError(f"{path}: its options say {option}={said}, but its tensors say {shown}")


def _alike(said: tuple[int, ...] | None, value: tuple[int, ...] | None) -> bool:
    """Equal, where one number may stand for one in each stack."""
    if said is None or value is None:
        return False
    size = max(len(said), len(value))
    return len({len(said), len(value)} - {1, size}) == 0 and _spread(said, size) == _spread(value, size)


def _spread(numbers: tuple[int, ...], size: int) -> tuple[int, ...]:
    return numbers * size if len(numbers) == 1 else numbers


def _each(settings: Mapping[str, Any], name: str, size: int) -> tuple[int, ...] | None:
    numbers = _tuple(settings.get(name))
    return None if numbers is None else _spread(numbers, size)


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


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    return float(value) if isinstance(value, (int, float)) else default


def _same(encoder: Any, preset: ZipformerConfig) -> bool:
    names = (*VISIBLE, "heads", "query_head_dim", "value_head_dim", "pos_head_dim", "pos_dim")
    return all(getattr(encoder, name) == getattr(preset, name) for name in names)


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{n:g}" for n in numbers)


def icefall_name(name: str) -> str:
    """icefall's name of a parameter of ours, for messages."""
    return to_icefall_name(name) or name
