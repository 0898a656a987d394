"""Muon: momentum whose matrices are made orthogonal, for hidden weights; AdamW for all else.

For a matrix W (m, n) with gradient g: b <- mu b + (1 - mu) g, u = (1 - mu) g + mu b (Nesterov), and
W <- (1 - lr wd) W - 0.2 lr sqrt(max(m, n)) NS(u). NS is the Newton-Schulz iteration of Jordan et al. 2024
("Muon: An optimizer for hidden layers in neural networks"): all singular values become about 1. The factor
gives updates the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one rate serves both.
"""

import math
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the fifth-order polynomial
_ROUNDS = 5


class Muon(torch.optim.AdamW):
    """Groups with the entry `muon` are matrices, or kernels that count as (out, rest); the others learn by
    AdamW."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        for group in groups:
            alike: dict[torch.Size, list[Tensor]] = {}  # moved together: small products cost their launch
            for p in group["params"] if group["muon"] else ():
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for params in alike.values():
                self._move(params, group)
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _move(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Parameters of one shape."""
        grads = torch.stack([p.grad for p in params if p.grad is not None])
        for p in params:
            if not self.state[p]:
                self.state[p] |= {
                    "momentum": torch.zeros_like(p),
                    "step": torch.zeros(()),
                }  # AdamW's, to load
        for p, grad in zip(params, grads, strict=True):
            self.state[p]["momentum"].lerp_(grad, 1 - MOMENTUM)
        moments = torch.stack([self.state[p]["momentum"] for p in params])
        matrices = grads.lerp(moments, MOMENTUM).flatten(2)
        size = 0.2 * math.sqrt(max(matrices.shape[1:]))
        for p, update in zip(params, orthogonal(matrices), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.view_as(p), alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, m, n) float -> (N, m, n): about U V^T of the singular value decompositions U S V^T."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
