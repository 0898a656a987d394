"""What a conversion tells its user: the parts of the model, where they come from, and what to know."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from maya.models.hybrid import HybridConfig

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


def components(config: HybridConfig, weights: Mapping[str, Tensor]) -> list[Component]:
    """The modules of a model in the order of its state dict, each with its settings."""
    counts: dict[str, int] = {}
    for name, tensor in weights.items():
        module = name.split(".")[0]
        learnt = not name.endswith(("running_mean", "running_var", "num_batches_tracked", ".window", ".fb"))
        counts[module] = counts.get(module, 0) + (tensor.numel() if learnt else 0)
    settings = _settings(config)
    return [Component(module=m, parameters=n, settings=settings.get(m, "")) for m, n in counts.items()]


def _settings(config: HybridConfig) -> dict[str, str]:
    f, e, p, j = config.features, config.encoder, config.predictor, config.joint
    flags = [e.conv_norm.replace("_", " "), "biases" if e.use_bias else "no biases"]
    flags.append("xscaling" if e.xscaling else "no xscaling")
    if e.att_context_size != ((-1, -1),):
        flags.append(f"{e.att_context_style} attention {' '.join(map(str, e.att_context_size))}")
    if e.causal_downsampling or e.conv_context == "causal":
        flags.append("causal")
    return {
        "preprocessor": (
            f"{f.num_mels} mel, {f.window_ms:g} ms window, {f.hop_ms:g} ms hop, normalize {f.normalize}"
        ),
        "encoder": (
            f"{e.n_layers} layers × {e.d_model}, {e.n_heads} heads, kernel {e.conv_kernel}, "
            f"subsampling {e.subsampling_factor} × {e.subsampling_channels}, {', '.join(flags)}"
        ),
        "decoder": f"LSTM {p.layers} × {p.hidden}",
        "joint": f"{j.hidden}, {j.activation}"
        + (
            f", durations {' '.join(map(str, config.durations))}" if config.transducer == "tdt" else ", RNN-T"
        ),
        "ctc_decoder": f"weight {config.ctc_weight:g}",
        "language_embedding": " ".join(config.languages),
    }
