"""Sinusoidal positions (Vaswani et al. 2017, arXiv:1706.03762)."""

import math

import torch
from torch import Tensor


def sinusoids(places: Tensor, width: int) -> Tensor:
    """places (n,) fp32 -> (n, width) fp32: sin and cos of place / 10000^(2i / width), interleaved."""
    even = torch.arange(0, width, 2, dtype=torch.float32, device=places.device)
    angle = places[:, None] * torch.exp(even * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
