"""AdamW with weight decay only where it belongs."""

from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Up to four groups: what decays and what does not, in the encoder and in the heads.

    Matrices and convolution kernels decay; vectors (biases, norms), embeddings and the attention position
    biases do not. A group's entry `encoder` tells whether its parameters lie under `model.encoder`.
    """
    undecayed = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        plain = p.ndim < 2 or name in undecayed or name.endswith(("pos_bias_u", "pos_bias_v"))
        groups.setdefault((name.startswith("encoder."), not plain), []).append(p)
    return [
        {"params": params, "weight_decay": weight_decay if decays else 0.0, "encoder": encoder}
        for (encoder, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in the fused form (one pass over the parameters, CPU or GPU)."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas, eps=1e-8, fused=True)
