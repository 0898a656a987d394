"""Focused linear attention: attention whose cost grows with the number of frames, not with its square."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GUARD = 1e-6


class FocusedLinearAttention(nn.Module):
    """FLatten's focused attention (Han et al. 2023, arXiv:2308.00442) over time, as in FLASepformer
    (arXiv:2508.19528): no softmax and no positions.

    Queries and keys are ReLU outputs, divided by a learnt scale for each channel; each is raised to `power`
    and brought back to its length over all channels, which brings it nearer to its largest channels. out =
    q (kᵀ v) / (q · Σ k), and a depthwise convolution of the values, the same for all heads, is added.
    """

    def __init__(self, channels: int, heads: int, power: int = 3, kernel: int = 5) -> None:
        super().__init__()
        self.heads, self.power = heads, power
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.scale = nn.Parameter(torch.zeros(channels))
        width = channels // heads
        self.local = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, S, C), valid (B, S, 1) of the type of x, 0 on padding → (B, S, C); beyond valid it does not
        matter. Powers and sums are fp32 at least, also under autocast."""
        rows, size, _ = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x) * valid
        local = self.local(self._split(v).transpose(2, 3).flatten(0, 1))
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            mask = valid.to(wide)
            q, k = self._split(self._focused(q.to(wide))), self._split(self._focused(k.to(wide)) * mask)
            values = self._split(v.to(wide))
            count = mask.sum(1, keepdim=True).clamp(min=1)[:, None]  # (B, 1, 1, 1)
            mixed = k.transpose(2, 3) @ values / count
            mean = k.sum(2, keepdim=True) / count
            y = q @ mixed / ((q * mean).sum(-1, keepdim=True) + _GUARD)
        y = y.to(local.dtype) + local.view(rows, self.heads, -1, size).transpose(2, 3)
        return self.out(y.transpose(1, 2).reshape(rows, size, -1))

    def _focused(self, x: Tensor) -> Tensor:
        x = (x.relu() + _GUARD) / F.softplus(self.scale).to(x.dtype)
        powers = x**self.power
        return powers * (x.norm(dim=-1, keepdim=True) / powers.norm(dim=-1, keepdim=True))

    def _split(self, x: Tensor) -> Tensor:
        """(B, S, C) → (B, heads, S, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
