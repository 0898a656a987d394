"""What a conversion tells its user: the parts of the model, where they come from, and what to know."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from maya.encoders import EncoderConfig, FastConformerConfig, ZipformerConfig
from maya.features import FeaturesConfig, LogMelConfig
from maya.heads.transducer import AnyPredictorConfig, PredictorConfig
from maya.models.config import SpeechModelConfig

PARTS = {"preprocessor": "features", "decoder": "predictor", "ctc_decoder": "CTC head"}


@dataclass(kw_only=True, slots=True)
class Component:
    """A part of the model: its module, number of parameters, and settings in words."""

    module: str
    parameters: int
    settings: str


@dataclass(kw_only=True, slots=True)
class ConversionReport:
    """`new` names the modules that were not taken over but initialised."""

    title: str
    components: list[Component]
    facts: dict[str, str]
    new: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Title, a table of the components, facts and warnings."""
        rows = [("component", "parameters", "", "configuration")]
        for c in self.components:
            count = f"{c.parameters:,}" if c.parameters else "-"
            state = "new" if c.module in self.new else "kept"
            rows.append((PARTS.get(c.module, c.module), count, state, c.settings))
        total = sum(c.parameters for c in self.components)
        rows.append(("all", f"{total:,}", "", ""))
        name, number = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [self.title, ""]
        lines += [f"{a:<{name}}  {b:>{number}}  {c:<4}  {d}".rstrip() for a, b, c, d in rows]
        lines.append("")
        width = max(map(len, self.facts), default=0)
        lines += [f"{key:<{width}}  {value}" for key, value in self.facts.items()]
        if self.new:
            lines.append(f"new: {', '.join(self.new)}; train them before the model transcribes anything")
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def components(config: SpeechModelConfig, weights: Mapping[str, Tensor]) -> list[Component]:
    """The modules of a model in the order of its state dict, each with its settings."""
    counts = {"preprocessor": 0}  # Kaldi's has no tensors in the state dict
    for name, tensor in weights.items():
        module = name.split(".")[0]
        learnt = not name.endswith(("running_mean", "running_var", "num_batches_tracked", ".window", ".fb"))
        counts[module] = counts.get(module, 0) + (tensor.numel() if learnt else 0)
    settings = _settings(config)
    return [Component(module=m, parameters=n, settings=settings.get(m, "")) for m, n in counts.items()]


def _settings(config: SpeechModelConfig) -> dict[str, str]:
    j, a = config.joint, config.attention_decoder
    losses = {
        "tdt": f"durations {' '.join(map(str, config.durations))}",
        "rnnt": "RNN-T",
        "pruned": f"pruned RNN-T, {config.pruned.s_range} labels a frame",
    }
    return {
        "preprocessor": _features(config.features),
        "encoder": _encoder(config.encoder),
        "decoder": _predictor(config.predictor),
        "joint": f"{j.hidden}, {j.activation}, {losses.get(config.transducer, '')}",
        "ctc_decoder": f"weight {config.ctc_weight:g}",
        "attention_decoder": f"{a.layers} layers × {a.dim}, weight {config.attention_weight:g}",
        "language_embedding": " ".join(config.languages),
    }


def _features(f: FeaturesConfig) -> str:
    shape = f"{f.num_mels} mel, {f.window_ms:g} ms window, {f.hop_ms:g} ms hop"
    return f"{shape}, normalize {f.normalize}" if isinstance(f, LogMelConfig) else f"{shape}, Kaldi's"


def _encoder(e: EncoderConfig) -> str:
    """Sizes and whatever makes this encoder differ from others of its kind."""
    if isinstance(e, FastConformerConfig):
        return _fastconformer(e)
    if isinstance(e, ZipformerConfig):
        stacks = f"{' '.join(map(str, e.layers))} layers × {' '.join(map(str, e.dims))}"
        factors = ", ".join([f"downsampling {' '.join(map(str, e.downsampling))}", *["causal"] * e.causal])
        return f"{e.kind}, {stacks}, {' '.join(map(str, e.heads))} heads, {factors}"
    return f"{e.kind}, {e.d_model} wide, subsampling {e.subsampling_factor}"


def _fastconformer(e: FastConformerConfig) -> str:
    flags = [e.conv_norm.replace("_", " "), "biases" if e.use_bias else "no biases"]
    flags.append("xscaling" if e.xscaling else "no xscaling")
    if e.att_context_size != ((-1, -1),):
        flags.append(f"{e.att_context_style} attention {' '.join(map(str, e.att_context_size))}")
    if e.causal_downsampling or e.conv_context == "causal":
        flags.append("causal")
    return (
        f"{e.n_layers} layers × {e.d_model}, {e.n_heads} heads, kernel {e.conv_kernel}, "
        f"subsampling {e.subsampling_factor} × {e.subsampling_channels}, {', '.join(flags)}"
    )


def _predictor(p: AnyPredictorConfig) -> str:
    if isinstance(p, PredictorConfig):
        return f"LSTM {p.layers} × {p.hidden}"
    return f"stateless, {p.context} labels × {p.hidden}"
