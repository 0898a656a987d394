"""AdamW, without weight decay on biases, norms and embeddings, and with rates that may fall towards the
encoder's bottom; or Muon; or ScaledAdam, icefall's."""

from typing import Any

import torch
from torch import Tensor, nn

from maya.models.config import ENCODER
from maya.models.speech_model import SpeechModel
from maya.train.config import TrainConfig
from maya.train.distributed import is_dtensor
from maya.train.optimizers.muon import Muon
from maya.train.optimizers.scaled_adam import ScaledAdam

_NARROW = 32  # a matrix with fewer rows or columns learns by AdamW under Muon


def parameter_groups(
    model: SpeechModel, weight_decay: float, encoder_layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The parameters that learn, with and without weight decay, of the heads and of the encoder: four groups,
    or two for each layer of the encoder where `encoder_layer_decay` is below 1.

    Matrices and convolution kernels decay; vectors (biases, norms), embeddings and the attention position
    biases do not. A group's entry `encoder` tells whether its parameters lie under `model.encoder`; `scale`
    is their share of the learning rate: 1 for heads and the top layer, times `encoder_layer_decay` for each
    layer further down; what lies before the layers counts as one more (Howard & Ruder 2018,
    arXiv:1801.06146).
    """
    undecayed = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    blocks = model.encoder.blocks()
    depth = {id(p): len(blocks) - 1 - i for i, block in enumerate(blocks) for p in block.parameters()}
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        plain = p.ndim < 2 or name in undecayed or name.endswith(("pos_bias_u", "pos_bias_v"))
        plain = plain or hasattr(p, "fixed_rows")
        encoder, below = name.startswith("encoder."), 0
        if encoder and encoder_layer_decay != 1:
            below = depth.get(id(p), len(blocks))
        groups.setdefault((encoder, below, not plain), []).append(p)
    return [
        {
            "params": params,
            "weight_decay": weight_decay if decays else 0.0,
            "encoder": encoder,
            "scale": encoder_layer_decay**below,
        }
        for (encoder, below, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def adamw(
    model: SpeechModel,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    encoder_layer_decay: float = 1.0,
    l2_sp: float = 0.0,
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in the fused form (one pass over the parameters, CPU or GPU); with
    `l2_sp` an `AnchoredAdamW`."""
    groups = parameter_groups(model, weight_decay, encoder_layer_decay)
    options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": 1e-8, "fused": True}
    return AnchoredAdamW(groups, l2_sp, **options) if l2_sp else torch.optim.AdamW(groups, **options)


class AnchoredAdamW(torch.optim.AdamW):
    """AdamW whose parameters are also pulled to their values when it was made: p += lr · pull · (p_0 - p).

    The values p_0 are entries of the groups, so that its state dict has them. Parameters that are sharded are
    not supported.
    """

    def __init__(self, groups: list[dict[str, Any]], pull: float, **options: Any) -> None:
        anchored = [g | {"pull": pull, "anchors": [p.detach().clone() for p in g["params"]]} for g in groups]
        super().__init__(anchored, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for g in self.param_groups:
            g["anchors"] = [a.to(p.device) for a, p in zip(g["anchors"], g["params"], strict=True)]
            for p, anchor in zip(g["params"], g["anchors"], strict=True):
                p.lerp_(anchor, min(1.0, g["lr"] * g["pull"]))
        return super().step(closure)


def scaled_adam(
    model: nn.Module, *, lr: float, betas: tuple[float, float], clipping_scale: float, encoder_apart: bool
) -> ScaledAdam:
    """ScaledAdam over all parameters that learn, as one group, for each group is clipped by itself; with
    `encoder_apart` as two, for an encoder that learns at a rate or time of its own."""
    heads: list[tuple[str, nn.Parameter]] = []
    encoder: list[tuple[str, nn.Parameter]] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (encoder if encoder_apart and name.startswith("encoder.") else heads).append((name, p))
    parts = ((False, heads), (True, encoder))  # either may be frozen
    groups = [{"params": part, "encoder": of_encoder, "scale": 1.0} for of_encoder, part in parts if part]
    return ScaledAdam(groups, lr=lr, betas=betas, clipping_scale=clipping_scale)


def muon(model: SpeechModel, cfg: TrainConfig) -> Muon:
    """Muon for the encoder's matrices and wide kernels, AdamW for the rest, over `parameter_groups`."""
    groups = []
    for group in parameter_groups(model, 1.0, cfg.encoder_layer_decay):
        decays = group["weight_decay"] > 0
        for matrices in (False, True):
            params = [p for p in group["params"] if matrices == (decays and group["encoder"] and _is_wide(p))]
            if params:
                decay = cfg.weight_decay if decays else 0.0
                groups.append(group | {"params": params, "weight_decay": decay, "muon": matrices})
    return Muon(groups, lr=cfg.lr, betas=cfg.betas, eps=1e-8, fused=True)


def _is_wide(p: nn.Parameter) -> bool:
    return min(len(p), p[0].numel()) >= _NARROW


def make_optimizer(model: SpeechModel, cfg: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of the configuration, over the parameters that require gradients now. Its groups have the
    entries `encoder` and `scale`, see `parameter_groups`."""
    if cfg.optimizer == "scaled_adam":
        apart = bool(cfg.encoder_lr is not None or ENCODER in cfg.freeze or cfg.encoder_hold)
        return scaled_adam(
            model, lr=cfg.lr, betas=cfg.betas, clipping_scale=cfg.clipping_scale, encoder_apart=apart
        )
    if cfg.optimizer == "muon":
        return muon(model, cfg)
    decay = {"weight_decay": cfg.weight_decay, "encoder_layer_decay": cfg.encoder_layer_decay}
    return adamw(model, lr=cfg.lr, betas=cfg.betas, l2_sp=cfg.l2_sp, **decay)


def gradient_norm(model: nn.Module) -> Tensor:
    """() the norm of all gradients, on their device: nothing waits for it."""
    grads = ([p.grad for p in part if p.grad is not None] for part in _by_layout(model))
    norms = [torch.nn.utils.get_total_norm(part) for part in grads]
    norms = [norm.full_tensor() if is_dtensor(norm) else norm for norm in norms]
    return norms[0] if len(norms) == 1 else torch.stack([torch.zeros(()), *norms]).norm()


def _by_layout(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters that have gradients, those that FSDP2 has sharded apart: no operator mixes the two."""
    params = [p for p in model.parameters() if p.grad is not None]
    parts = ([p for p in params if is_dtensor(p) is sharded] for sharded in (False, True))
    return [part for part in parts if part]


def largest_gradient(model: nn.Module) -> tuple[str, float]:
    """The name of the parameter with the largest gradient, and its share of the squared norm of all; waits
    for the device. ("", 0) without gradients. Of a sharded model, this rank's shards."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    if not named:
        return "", 0.0
    gradients: list[Any] = [g.to_local() if hasattr(g, "to_local") else g for _, g in named]
    squares = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square()
    place = int(squares.argmax())
    return named[place][0].removeprefix("module."), float(squares[place] / squares.sum())


def clip(model: nn.Module, optimizer: torch.optim.Optimizer, cfg: TrainConfig, norm: Tensor) -> None:
    """Bring the gradients, whose norm is known, down to `cfg.clip`. ScaledAdam clips in its step."""
    if not isinstance(optimizer, ScaledAdam):
        for part in _by_layout(model):
            torch.nn.utils.clip_grads_with_norm_(part, cfg.clip, norm)
