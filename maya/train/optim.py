"""AdamW with weight decay only where it belongs."""

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices and convolution kernels decay; vectors (biases, norms), embeddings and the
    attention position biases do not."""
    undecayed = set()
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            undecayed.add(f"{module_name}.weight")
    decay, rest = [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        plain = p.ndim < 2 or name in undecayed or name.endswith(("pos_bias_u", "pos_bias_v"))
        (rest if plain else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in the fused form (one pass over the parameters, CPU or GPU)."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas, eps=1e-8, fused=True)
