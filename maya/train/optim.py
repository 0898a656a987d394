"""AdamW with weight decay only where it belongs, and rates that may fall towards the encoder's bottom."""

import re
from typing import Any

import torch
from torch import nn

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def parameter_groups(
    model: nn.Module, weight_decay: float, encoder_layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """What decays and what does not, in the heads and in the encoder: four groups, or two for each layer of
    the encoder where `encoder_layer_decay` is below 1.

    Matrices and convolution kernels decay; vectors (biases, norms), embeddings and the attention position
    biases do not. A group's entry `encoder` tells whether its parameters lie under `model.encoder`; `scale`
    is their share of the learning rate: 1 for heads and the top layer, times `encoder_layer_decay` for each
    layer further down; what lies before the layers counts as one more (Howard & Ruder 2018,
    arXiv:1801.06146).
    """
    undecayed = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    layers = [int(found[1]) for name, _ in model.named_parameters() if (found := _LAYER.match(name))]
    top = max(layers, default=-1)
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        plain = p.ndim < 2 or name in undecayed or name.endswith(("pos_bias_u", "pos_bias_v"))
        encoder, below = name.startswith("encoder."), 0
        if encoder and encoder_layer_decay != 1:
            found = _LAYER.match(name)
            below = top - int(found[1]) if found else top + 1
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
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    encoder_layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in the fused form (one pass over the parameters, CPU or GPU)."""
    groups = parameter_groups(model, weight_decay, encoder_layer_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True)
