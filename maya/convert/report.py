"""The report of a conversion: the parts of the model, their settings and origin, and warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from maya.encoders import FastConformerConfig, ZipformerConfig
from maya.features import FbankConfig, LogMelConfig
from maya.heads import AttentionDecoderConfig, HeadConfig, TransducerConfig
from maya.heads.transducer import AnyPredictorConfig, PredictorConfig
from maya.models.config import SpeechModelConfig


@dataclass(kw_only=True, slots=True)
class Component:
    """A part of the model, the number of its parameters, and its settings in words.

    name: "features", "encoder", "language_embedding", the name of a head, or "transducer.joint" and so on.
    """

    name: str
    parameters: int
    settings: str


@dataclass(kw_only=True, slots=True)
class ConversionReport:
    """`new` names the heads that were initialised, not converted."""

    title: str
    components: list[Component]
    facts: dict[str, str]
    new: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Title, a table of the components, facts and warnings."""
        rows = [("component", "parameters", "", "configuration")]
        for part in self.components:
            count = f"{part.parameters:,}" if part.parameters else "-"
            state = "new" if part.name.split(".")[0] in self.new else "kept"
            rows.append((part.name, count, state, part.settings))
        total = sum(part.parameters for part in self.components)
        rows.append(("all", f"{total:,}", "", ""))
        name, number = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [self.title, ""]
        lines += [f"{a:<{name}}  {b:>{number}}  {c:<4}  {d}".rstrip() for a, b, c, d in rows]
        lines.append("")
        width = max(map(len, self.facts), default=0)
        lines += [f"{key:<{width}}  {value}" for key, value in self.facts.items()]
        if self.new:
            lines.append(f"new: {', '.join(self.new)}; train these heads before the model can transcribe")
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self)


def components(config: SpeechModelConfig, weights: Mapping[str, Tensor]) -> list[Component]:
    """The parts of a model in the order of its state dict, each with its settings."""
    counts = {"features": 0}  # Kaldi's features have no tensors in the state dict
    settings = {"features": _features(config.features), "encoder": _encoder(config.encoder)}
    settings["language_embedding"] = " ".join(config.languages)
    for name, head in config.heads.items():
        settings |= _head(name, head)
    for name, tensor in weights.items():
        part = _part(name, config)
        learnt = not name.endswith(("running_mean", "running_var", "num_batches_tracked", ".window", ".fb"))
        counts[part] = counts.get(part, 0) + (tensor.numel() if learnt else 0)
    return [Component(name=p, parameters=n, settings=settings.get(p, "")) for p, n in counts.items()]


def _part(name: str, config: SpeechModelConfig) -> str:
    """The part of the model that a tensor of the state dict belongs to."""
    module, *names = name.split(".")
    if module != "heads":
        return "features" if module == "preprocessor" else module
    is_transducer = isinstance(config.heads[names[0]], TransducerConfig)
    return f"{names[0]}.{names[1].replace('decoder', 'predictor')}" if is_transducer else names[0]


def _head(name: str, cfg: HeadConfig) -> dict[str, str]:
    """The settings of the parts of a head."""
    weight = f"weight {cfg.weight:g}"
    if isinstance(cfg, AttentionDecoderConfig):
        return {name: f"{cfg.layers} layers × {cfg.dim}, {weight}"}
    if not isinstance(cfg, TransducerConfig):
        return {name: weight}
    losses = {
        "tdt": f"durations {' '.join(map(str, cfg.durations))}",
        "rnnt": "RNN-T",
        "pruned": f"pruned RNN-T, {cfg.pruned.s_range} labels a frame",
    }
    joint = f"{cfg.joint.hidden}, {cfg.joint.activation}, {losses[cfg.loss]}, {weight}"
    return {f"{name}.predictor": _predictor(cfg.predictor), f"{name}.joint": joint}


def _features(f: Any) -> str:
    if not isinstance(f, (LogMelConfig, FbankConfig)):
        return f"{f.kind}, {f.num_mels} numbers, {f.hop_ms:g} ms hop"
    shape = f"{f.num_mels} mel, {f.window_ms:g} ms window, {f.hop_ms:g} ms hop"
    return f"{shape}, normalize {f.normalize}" if isinstance(f, LogMelConfig) else f"{shape}, Kaldi's"


def _encoder(e: Any) -> str:
    """Sizes, and the settings in which encoders of this kind differ."""
    if isinstance(e, FastConformerConfig):
        return _fastconformer(e)
    if isinstance(e, ZipformerConfig):
        stacks = f"{' '.join(map(str, e.layers))} layers × {' '.join(map(str, e.dims))}"
        factors = ", ".join([f"downsampling {' '.join(map(str, e.downsampling))}", *["causal"] * e.causal])
        return f"{e.kind}, {stacks}, {' '.join(map(str, e.heads))} heads, {factors}"
    return f"{e.kind}, {e.d_model} channels, subsampling {e.subsampling_factor}"


def _fastconformer(e: FastConformerConfig) -> str:
    flags = [e.conv_norm.replace("_", " "), "biases" if e.use_bias else "no biases"]
    flags.append("xscaling" if e.xscaling else "no xscaling")
    if e.att_context_size != ((-1, -1),):
        flags.append(f"{e.att_context_style} attention {' '.join(map(str, e.att_context_size))}")
    if e.causal_downsampling or e.conv_context == "causal":
        flags.append("causal")
    return (
        f"{e.n_layers} layers × {e.d_model}, {e.n_heads} heads, kernel {e.conv_kernel}, "
        f"{e.subsampling} {e.subsampling_factor} × {e.subsampling_channels}, {', '.join(flags)}"
    )


def _predictor(p: AnyPredictorConfig) -> str:
    if isinstance(p, PredictorConfig):
        return f"LSTM {p.layers} × {p.hidden}"
    return f"stateless, {p.context} labels × {p.hidden}"


def some(names: Sequence[str]) -> str:
    """The first three names, and the number of the others."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
