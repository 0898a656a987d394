"""The mixer of a LaCT layer: window attention and fast weights on the same q, k and v."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.conformer.attention import HIDDEN, AttentionSpan, Frames
from maya.encoders.lact.fast_weights import FastWeightBranch, FastWeightConfig, rotate
from maya.features.frames import frame_mask
from maya.kernels.lact import FastWeights


class WindowAttention(nn.Module):
    """Softmax attention over a window around each frame, with or without rotary positions.

    It has no parameters. Time and memory grow linearly with the utterance.
    """

    def __init__(self, heads: int, *, rotary: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.rotary, self.dropout_p = heads, rotary, dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, span: AttentionSpan, valid: Tensor) -> Tensor:
        """q (B, n, D) over k, v (B, m, D), valid (B, m) -> (B, n, D).

        The last query is at the last key. With chunks, the first query is at the start of one. A query
        without a valid key gets a finite value, which is not used.
        """
        before = k.shape[1] - q.shape[1]
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (q, k, v))
        if self.rotary:
            places = torch.arange(-before, q.shape[1], device=q.device)
            q, k = rotate(q, places[before:]), rotate(k, places)
        in_blocks = q.shape[1] > span.window
        return (self._blocks if in_blocks else self._dense)(q, k, v, span, valid).flatten(2)

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, span: AttentionSpan, valid: Tensor) -> Tensor:
        before = k.shape[1] - q.shape[1]
        places = torch.arange(-before, q.shape[1], device=q.device)
        mask = _hidden(valid, q.dtype)[:, None, None] + _beyond(span, places[before:], places, q.dtype)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return self._fused(q, k, v, mask).transpose(1, 2)

    def _blocks(self, q: Tensor, k: Tensor, v: Tensor, span: AttentionSpan, valid: Tensor) -> Tensor:
        """Attention in blocks of queries, each with its window of keys."""
        (batch, size), block, (left_frames, right) = q.shape[:2], span.block, span.reach
        count = -(-size // block)
        before, behind = k.shape[1] - size - left_frames, count * block - size
        q = F.pad(q, (0, 0, 0, 0, 0, behind)).unflatten(1, (count, block))
        k, v = (F.pad(x, (0, 0, 0, 0, -before, right + behind)) for x in (k, v))
        k, v = (x.unfold(1, span.window, block).movedim(-1, 2) for x in (k, v))
        visible = F.pad(valid, (-before, right + behind)).unfold(1, span.window, block)
        places = torch.arange(-left_frames, block + right, device=q.device)
        beyond = _beyond(span, places[left_frames:][:block], places, q.dtype)
        mask = _hidden(visible, q.dtype)[:, :, None, None] + beyond
        q, k, v = (x.transpose(2, 3).flatten(0, 1) for x in (q, k, v))
        y = self._fused(q, k, v, mask.flatten(0, 1)).transpose(1, 2)
        return y.unflatten(0, (batch, count)).flatten(1, 2)[:, :size]

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        dropout_p = self.dropout_p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)


def _hidden(valid: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, HIDDEN)


def _beyond(span: AttentionSpan, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """(N,), (M,) frame numbers -> (N, M): -inf outside the span; each query sees itself."""
    seen = span.visible(queries, keys)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -math.inf)


class FastWeightMixer(nn.Module):
    """The projected sum of fast weights and, with `attention`, window attention.

    Without attention it replaces the attention of another encoder's layer. The output of the fast weights is
    0 before training.
    """

    def __init__(
        self,
        width: int,
        cfg: FastWeightConfig,
        *,
        bias: bool = True,
        qk_norm: bool = False,
        attention: WindowAttention | None = None,
    ) -> None:
        super().__init__()
        self.linear_q = nn.Linear(width, width, bias=bias)
        self.linear_k = nn.Linear(width, width, bias=bias)
        self.linear_v = nn.Linear(width, width, bias=bias)
        self.linear_out = nn.Linear(width, width, bias=bias)
        self.norm_q = nn.RMSNorm(width) if qk_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(width) if qk_norm else nn.Identity()
        self.attention = attention
        self.fast = FastWeightBranch(width, cfg)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """(B, S, D) -> (B, S, D). It does not use the positions of `frames`."""
        rows = frames.rows
        if rows is None:
            return self.mix(x, frames.valid, frames.span)[0]
        size = max(rows.lens)
        valid = frame_mask(torch.tensor(rows.lens, device=x.device), size)
        return rows.pack(self.mix(rows.unpack(x, size), valid, frames.span)[0])

    def mix(
        self,
        x: Tensor,
        valid: Tensor,
        span: AttentionSpan,
        weights: FastWeights | None = None,
        first: Tensor | None = None,
        before: int = 0,
    ) -> tuple[Tensor, FastWeights]:
        """x (B, before + n, D), valid (B, before + n) -> (B, n, D), and the fast weights after.

        The first `before` frames are keys of attention only. `weights`, `first`: see `FastWeightBranch`.
        """
        new = x[:, before:]
        q, k, v = self.norm_q(self.linear_q(new)), self.norm_k(self.linear_k(x)), self.linear_v(x)
        y, after = self.fast(new, q, k[:, before:], v[:, before:], valid[:, before:], weights, first)
        if self.attention is not None:
            y = y + self.attention(q, k, v, span, valid)
        return self.linear_out(y), after
