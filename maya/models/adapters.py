"""A few new weights beside a trained model's, which alone learn: LoRA, or bottleneck adapters.

LoRA (Hu et al. 2021, arXiv:2106.09685) is a parametrization of torch: a layer's weight is W + alpha / rank ·
B A wherever it is read, and `merged` makes that its weight for good. Bottleneck adapters (Houlsby et al.
2019, arXiv:1902.00751) stand behind the last norm of each layer, and stay in the model; NeMo's begin with a
norm. All change nothing before they have learnt. For a language model as a head there is maya.heads.lora.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from maya.config import config
from maya.errors import MayaError
from maya.ranges import Distinct, PosFloat, PosInt

ADAPTER = "adapter"  # the name of a bottleneck in the module that it stands behind
_ENDS = ("norm_out", "joint.enc", "joint.pred", "norm_ff")  # of the modules that a bottleneck follows


@config
class AdapterConfig:
    """type: "lora", "bottleneck", "nemo" or none. rank: of the matrices, or the bottleneck's width. alpha:
    LoRA's. "nemo": NeMo's LinearAdapter behind the layers of the encoder. targets: LoRA's layers, as ends of
    their names (feed_forward1.linear1, linear_q, joint.enc); none: every linear layer and pointwise
    convolution of the encoder's layers and of the heads."""

    type: Literal["none", "lora", "bottleneck", "nemo"] = "none"
    rank: PosInt = 16
    alpha: PosFloat = 32.0
    targets: Annotated[tuple[str, ...], Distinct()] = ()


class LowRank(nn.Module):
    """weight (N, K, ...) → weight + scale · up down, up (N, R) zero at the start, down (R, K)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * (self.up @ self.down)).view_as(weight).to(weight.dtype)


class Bottleneck(nn.Module):
    """x (..., D) → x + up(relu(down(x))), up zero at the start."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x).relu())


class NemoBottleneck(nn.Module):
    """x (..., D) → x + up(silu(down(norm(x)))), up zero at the start: NeMo's LinearAdapter."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(nn.functional.silu(self.down(self.norm(x))))


def add_adapters(encoder: nn.Module, heads: nn.Module, cfg: AdapterConfig) -> None:
    """Put the adapters of a configuration into a model, in place. Raises MayaError where it has no layer for
    them."""
    if cfg.type == "none":
        return
    count = 0
    # A head with a language model has that model's own LoRA.
    own = [m for head in heads.children() if not head.cfg.places for m in head.named_modules()]  # type: ignore[union-attr]
    for name, module in [*_layers(encoder), *own]:
        if cfg.type == "lora" and _is_linear(module) and _is_target(name, cfg):
            weight = module.weight
            assert isinstance(weight, Tensor)
            parametrize.register_parametrization(module, "weight", LowRank(weight, cfg.rank, cfg.alpha))
            count += 1
        elif (cfg.type == "bottleneck" and name.endswith(_ENDS)) or (
            cfg.type == "nemo" and name.endswith(_ENDS[0])
        ):
            kind = Bottleneck if cfg.type == "bottleneck" else NemoBottleneck
            module.add_module(ADAPTER, kind(_width(module), cfg.rank))
            module.register_forward_hook(_behind)
            count += 1
    if not count:
        wanted = ", ".join(cfg.targets) or "a known kind"
        raise MayaError(
            f"the model has no layers of {wanted} for adapters; name LoRA's in model.adapters.targets"
        )


def _behind(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The hook of a module with a bottleneck behind it."""
    adapted: Tensor = module.get_submodule(ADAPTER)(output)
    return adapted


def _layers(encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules within the encoder's blocks."""
    blocks = encoder.blocks()  # type: ignore[operator]
    for block in blocks:
        for name, module in block.named_modules(prefix="layer"):
            # The norm at the end of a Zipformer layer has no other name.
            last = name.endswith(".norm") and hasattr(module, "log_scale")
            yield (f"{name}_out" if last else name), module


def _is_linear(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv1d) and module.kernel_size == (1,) and module.groups == 1
    return (isinstance(module, nn.Linear) or pointwise) and not parametrize.is_parametrized(module)


def _is_target(name: str, cfg: AdapterConfig) -> bool:
    return not cfg.targets or any(name == end or name.endswith(f".{end}") for end in cfg.targets)


def _width(module: nn.Module) -> int:
    """The channels of a norm's or a linear layer's output."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return max(p.numel() for p in module.parameters())


def is_adapter(name: str) -> bool:
    """Whether a name in the state dict is that of an adapter's tensor, and not of the model's own."""
    return f".{ADAPTER}." in name or (".parametrizations." in name and not name.endswith(".original"))


def plain_name(name: str) -> str:
    """The name that a tensor of the model's own has without adapters."""
    return name.replace(".parametrizations.weight.original", ".weight")


def merge_lora(module: nn.Module) -> int:
    """Make LoRA's products part of the weights, in place; returns the number of layers."""
    layers = [m for m in module.modules() if parametrize.is_parametrized(m, "weight")]
    layers = [m for m in layers if isinstance(m.parametrizations["weight"][0], LowRank)]  # type: ignore[index]
    with torch.no_grad():
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return len(layers)
