"""Multi-head attention with relative positions, over the whole utterance or over a span around each frame.

All forms compute the same thing; which one runs follows from sizes alone.

* *whole*: one call of torch's fused attention, the position term as its additive bias (B, H, S, S).
* *query blocks*, where that bias would be larger than `MAX_BIAS`: the same, for as many queries at a time
  as fit. Exact, as a softmax needs only its own row. A block's bias is made again in the backward pass.
* *local*, where the span is bounded and shorter than the utterance: blocks of queries against windows of
  keys. Time and memory grow linearly with the utterance; only positions within the span are scored.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maya.encoders.conformer import row_attention
from maya.encoders.conformer.packed_rows import Rows
from maya.encoders.positions import sinusoids
from maya.errors import MayaError
from maya.kernels.onednn import QuickLinear

Context = tuple[int, int]  # frames to the left and right, -1 for all
ChunkContext = tuple[int, int, int]  # frames before a chunk, in it, and after it

# Elements of the bias that one call may hold, 256 MB in fp32: 16 utterances of 40 s (500 frames) with 8
# heads stay whole, one of 4 minutes does not. Below it, blocks only add calls; far above, the bias alone
# (16 GB for half an hour with 8 heads) would decide what fits.
MAX_BIAS = 2**26
# The same for one call of the local form on a CPU: a few blocks, whose scores then stay within the cache.
MAX_LOCAL_BIAS_CPU = 2**22
# Stands for -inf at padded keys, exp of it being 0 in every type. It is finite because a padded query may see
# padded keys alone, and a softmax over nothing but -inf is NaN.
HIDDEN = -30000.0


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """Which frames a query sees: `left_frames` before and `right` after it, None for all of them.

    With `chunk` > 0, NeMo's "chunked_limited": it sees its own chunk of that many frames and
    `left_frames` before the chunk's first. `right` then counts from the chunk's first frame: chunk - 1, so
    that nothing waits for more than the chunk's end, or more ("chunked_limited_with_rc").
    """

    left_frames: int | None = None
    right: int | None = None
    chunk: int = 0

    @property
    def bounded(self) -> bool:
        return self.left_frames is not None and self.right is not None

    @property
    def limited(self) -> bool:
        """Whether there are frames that a query does not see."""
        return self.left_frames is not None or self.right is not None or self.chunk > 0

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after it that any query of a bounded span can see."""
        assert self.left_frames is not None and self.right is not None
        return self.left_frames + max(0, self.chunk - 1), self.right

    @property
    def block(self) -> int:
        """Queries in a block of the local form: half the reach, so that a third of the scores is not needed,
        but enough for a matrix product to be worth its call; whole chunks."""
        size = min(max(sum(self.reach) // 2, 32), 256)
        return -(-size // self.chunk) * self.chunk if self.chunk else size

    @property
    def window(self) -> int:
        """Keys that a block of queries sees."""
        return self.block + sum(self.reach)

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(N,), (M,) frame numbers -> (N, M) bool. Numbers count from a chunk's start and may be negative."""
        queries, keys = queries[:, None], keys[None, :]
        if self.chunk:
            start = queries // self.chunk * self.chunk
            assert self.right is not None
            seen = keys <= start + self.right
            return seen if self.left_frames is None else seen & (keys >= start - self.left_frames)
        seen = torch.ones(len(queries), keys.shape[1], dtype=torch.bool, device=keys.device)
        if self.left_frames is not None:
            seen = seen & (keys >= queries - self.left_frames)
        return seen if self.right is None else seen & (keys <= queries + self.right)


EVERYTHING = AttentionSpan()


def span_of(context: Context | ChunkContext, style: str) -> AttentionSpan:
    """What a pair of `att_context_size` means. Raises MayaError for a pair that the style cannot have."""
    if len(context) == 3:
        left_frames, chunk, after = context
        if left_frames < 0 or chunk < 1 or after < 0:
            raise MayaError(f"a context of chunks, {context}, holds frames before, in and after one")
        return AttentionSpan(left_frames, chunk - 1 + after, chunk=chunk)
    left_frames, right = context
    if left_frames < -1 or right < -1:
        raise MayaError(f"encoder.att_context_size={context} holds numbers of frames, or -1 for all of them")
    limits = (None if left_frames == -1 else left_frames), (None if right == -1 else right)
    if style == "regular" or right == -1:  # without a right limit there is but one chunk, as in NeMo
        return AttentionSpan(*limits)
    if left_frames > 0 and left_frames % (right + 1):
        raise MayaError(
            f"encoder.att_context_size={context} is not possible with chunked_limited attention: its chunks "
            f"have {right + 1} frames, and {left_frames} is not a multiple of that"
        )
    return AttentionSpan(*limits, chunk=right + 1)


@dataclass(frozen=True, slots=True)
class Frames:
    """What the layers share in one forward pass.

    valid (B, S) bool: False on padding. positions (2R + 1, D): sinusoids of relative positions R .. -R, R
    being the farthest that any query sees. rows: set when the batch is packed, B being 1 then.
    """

    valid: Tensor
    positions: Tensor
    span: AttentionSpan = EVERYTHING
    rows: Rows | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys and values of attention, each (B, m, H, K). valid (B, m) bool: False on padding; None for none.
    The first query stands at key `before`."""

    k: Tensor
    v: Tensor
    valid: Tensor | None = None
    before: int = 0


def positions_needed(span: AttentionSpan, longest: int) -> int:
    """The farthest relative position that attention over at most `longest` frames asks for."""
    return max(0, longest - 1 if not span.bounded else min(longest, span.window) - 1)


def relative_sinusoids(reach: int, width: int, device: torch.device) -> Tensor:
    """(2 * reach + 1, width) fp32: the sinusoids of positions reach .. -reach."""
    return sinusoids(torch.arange(reach, -reach - 1, -1, dtype=torch.float32, device=device), width)


class RelPositionAttention(nn.Module):
    """Multi-head attention with Transformer-XL relative positions (Dai et al. 2019, arXiv:1901.02860).

    score(i, j) = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(K); the second term enters torch's
    `scaled_dot_product_attention` as an additive bias. Which backend that takes: on a CPU the flash kernel in
    inference, and plain products in training, as flash has no gradient for a bias; on CUDA the
    memory-efficient kernel either way (flash takes no bias). The bias costs one more product of the size of
    q k^T, twice as wide, and B * H * S * S numbers; docs/benchmarks/encoder.md has measurements.
    """

    def __init__(self, width: int, heads: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_size = heads, width // heads
        self.dropout_p = dropout
        self._projected: tuple[Any, Tensor] | None = None  # of streams
        self.linear_q = QuickLinear(width, width, bias=bias)
        self.linear_k = QuickLinear(width, width, bias=bias)
        self.linear_v = QuickLinear(width, width, bias=bias)
        self.linear_out = QuickLinear(width, width, bias=bias)
        self.linear_pos = QuickLinear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, self.head_size))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, self.head_size))

    @property
    def position_biases(self) -> tuple[nn.Parameter, nn.Parameter]:
        """u and v, each (H, K); to be set where layers share them."""
        return self.pos_bias_u, self.pos_bias_v

    @position_biases.setter
    def position_biases(self, biases: tuple[nn.Parameter, nn.Parameter]) -> None:
        self.pos_bias_u, self.pos_bias_v = biases

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """(B, S, D) -> (B, S, D).

        Only keys are masked: a padded query yields a finite value that nothing reads.
        """
        q, k, v = (self.split_heads(linear, x) for linear in (self.linear_q, self.linear_k, self.linear_v))
        p = self.split_heads(self.linear_pos, frames.positions)
        if frames.rows is None:
            y = self._attend(q, Keys(k, v, frames.valid), p, frames.span)
        elif not (self.training or frames.span.limited) and row_attention.takes(frames.rows, q):
            y = row_attention.attend_rows(frames.rows, q, k, v, p, self.position_biases)
        else:
            rows = zip(frames.rows.split(q), frames.rows.split(k), frames.rows.split(v), strict=True)
            y = frames.rows.join(
                [self._attend(q, Keys(k, v), p, frames.span) if q.numel() else q for q, k, v in rows]
            )
        return self.linear_out(y.flatten(2))

    def stream(self, x: Tensor, cache: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """One piece of a stream: x (B, n, D), cache (B, before, 2 D) keys and values of the frames before it.

        frames.valid (B, before + n) is False on frames from before the start; the new frames start a chunk.
        Returns (B, n, D), and keys and values of all frames, (B, before + n, 2 D).
        """
        before, width = cache.shape[1], self.heads * self.head_size
        both = torch.cat([cache, torch.cat([self.linear_k(x), self.linear_v(x)], -1)], 1)
        k, v = (part.unflatten(-1, (self.heads, self.head_size)) for part in both.split(width, -1))
        q, p = self.split_heads(self.linear_q, x), self._positions_of_stream(frames.positions)
        y = self.attend_blocks(q, Keys(k, v, frames.valid, before), p, frames.span)
        return self.linear_out(y.flatten(2)), both

    def _positions_of_stream(self, positions: Tensor) -> Tensor:
        """Projected positions, (2R + 1, H, K). They are those of the chunk before, and more rows than a chunk
        has frames, so they are kept as long as the weight stays as it is."""
        linear = self.linear_pos
        plain = type(linear) is QuickLinear and not linear._forward_hooks and not linear.weight.is_inference()
        if not plain or self.training or not torch.is_inference_mode_enabled():
            return self.split_heads(linear, positions)
        weight = linear.weight
        key = (positions.data_ptr(), positions.shape, positions.dtype, weight.data_ptr(), weight._version)
        if self._projected is None or self._projected[0] != key:
            self._projected = key, self.split_heads(linear, positions)
        return self._projected[1]

    def split_heads(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """(..., D) -> (..., H, K), projected."""
        return linear(x).unflatten(-1, (self.heads, self.head_size))

    def _attend(self, q: Tensor, keys: Keys, p: Tensor, span: AttentionSpan) -> Tensor:
        """q (B, S, H, K), p (2R + 1, H, K) -> (B, S, H, K)."""
        local = span.bounded and q.shape[1] > span.window
        return (self.attend_local if local else self.attend_blocks)(q, keys, p, span)

    def attend_blocks(self, q: Tensor, keys: Keys, p: Tensor, span: AttentionSpan) -> Tensor:
        """q (B, n, H, K) against all keys -> (B, n, H, K)."""
        batch, queries, heads, _ = q.shape
        block = min(queries, max(1, MAX_BIAS // max(1, batch * heads * keys.k.shape[1])))
        k, v = keys.k.transpose(1, 2), keys.v.transpose(1, 2)
        parts = []
        for first in range(0, queries, block):
            part = q[:, first : first + block]
            run = partial(self._attend_block, span=span, first=first, before=keys.before)
            if block < queries and torch.is_grad_enabled():
                parts.append(checkpoint(run, part, k, v, p, keys.valid, use_reentrant=False))
            else:
                parts.append(run(part, k, v, p, keys.valid))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _attend_block(
        self, q: Tensor, k: Tensor, v: Tensor, p: Tensor, valid: Tensor | None, *,
        span: AttentionSpan, first: int, before: int,
    ) -> Tensor:  # fmt: skip
        """q (B, n, H, K), k and v (B, H, m, K), valid (B, m) -> (B, n, H, K); q begins at key before + first.

        torch's checkpointing takes tensors as arguments, so these are not a `Keys`.
        """
        n, m, place = q.shape[1], k.shape[2], before + first
        centre = p.shape[0] // 2
        p = p[centre - (place + n - 1) : centre + m - place]  # positions place + n - 1 .. place - (m - 1)
        bias = _skew(self._position_scores(q, p), m)
        if span.limited:  # not `span != EVERYTHING`, which torch.compile cannot trace
            numbers = torch.arange(-before, m - before, device=q.device)
            seen = span.visible(numbers[place : place + n], numbers)
            bias = bias.masked_fill(~seen, -math.inf)
        if valid is not None:
            bias = bias + _hidden_keys(valid, bias.dtype)[:, None, None]
        return self._fused((q + self.pos_bias_u).transpose(1, 2), k, v, bias).transpose(1, 2)

    def attend_local(
        self,
        q: Tensor,
        keys: Keys,
        p: Tensor,
        span: AttentionSpan,
        extra: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As `attend_blocks`, in blocks of queries, each against its own window of keys.

        `extra` adds keys that all queries see: their scores (B, S, H, G) and values (B, G, H, K).
        """
        (batch, size, heads, _), (left_frames, right), block = q.shape, span.reach, span.block
        centre = p.shape[0] // 2
        p = p[centre - left_frames : centre + right + 1]
        limit = min(MAX_BIAS, MAX_LOCAL_BIAS_CPU) if q.device.type == "cpu" else MAX_BIAS
        group = block * max(1, limit // max(1, batch * heads * block * span.window))
        valid = keys.valid
        if valid is None:
            valid = torch.ones(1, keys.k.shape[1], dtype=torch.bool, device=q.device)
        parts = []
        for first in range(0, size, group):
            last = min(first + group, -(-size // block) * block)
            q_part = _cut(q, first, last).unflatten(1, (-1, block))
            k_part, v_part, valid_part = (
                _cut(t, keys.before + first - left_frames, keys.before + last + right)
                .unfold(1, span.window, block)
                .movedim(-1, 2)
                for t in (keys.k, keys.v, valid)
            )
            bias = self._window_bias(q_part, p, valid_part, span)
            if extra is not None:
                scores = _cut(extra[0], first, last).unflatten(1, (-1, block)).transpose(2, 3)
                bias = torch.cat([bias, scores.to(bias.dtype)], dim=-1)
                values = extra[1][:, None].expand(-1, v_part.shape[1], -1, -1, -1)
                k_part = torch.cat([k_part, torch.zeros_like(values)], dim=2)
                v_part = torch.cat([v_part, values], dim=2)
            q_part = q_part + self.pos_bias_u
            q_part, k_part, v_part = (t.transpose(2, 3).flatten(0, 1) for t in (q_part, k_part, v_part))
            y = self._fused(q_part, k_part, v_part, bias.flatten(0, 1)).transpose(1, 2)
            parts.append(y.unflatten(0, (batch, (last - first) // block)).flatten(1, 2))
        return torch.cat(parts, dim=1)[:, :size]

    def _window_bias(self, q: Tensor, p: Tensor, valid: Tensor, span: AttentionSpan) -> Tensor:
        """q (B, N, n, H, K), p (P, H, K), valid (B, N, m) -> (B, N, H, n, m), m = n + P - 1.

        A score of position c of query i belongs to key i + c of its window: rows of P + n numbers, the last n
        of them -inf, read back as rows of P + n - 1, put each score in its place and hide all others.
        """
        n, m = q.shape[2], valid.shape[2]
        scores = F.pad(self._position_scores(q, p), (0, n), value=-math.inf)
        bias = scores.flatten(-2)[..., : n * m].unflatten(-1, (n, m))
        if span.chunk:
            keys = torch.arange(m, device=q.device) - span.reach[0]
            bias = bias.masked_fill(~span.visible(torch.arange(n, device=q.device), keys), -math.inf)
        return bias + _hidden_keys(valid, bias.dtype)[:, :, None, None]

    def _position_scores(self, q: Tensor, p: Tensor) -> Tensor:
        """q (..., n, H, K), p (P, H, K) -> (..., H, n, P), scaled."""
        q_v = (q + self.pos_bias_v) / math.sqrt(self.head_size)
        return q_v.transpose(-3, -2) @ p.permute(1, 2, 0)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        dropout_p = self.dropout_p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)


def _skew(scores: Tensor, keys: int) -> Tensor:
    """(B, H, n, n + m - 1) over relative positions -> view (B, H, n, m): [i, j] = scores[i, n - 1 - i + j].

    Rows read one element earlier each, so in memory the result is a plain strided window. `scores` is no
    view of another tensor: asking where a view begins would break torch.compile's graph.
    """
    scores = scores.contiguous()
    stride, n = scores.stride(), scores.shape[2]
    window = (stride[0], stride[1], stride[2] - 1, 1)
    return scores.as_strided((*scores.shape[:2], n, keys), window, n - 1)


def _hidden_keys(valid: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill_(~valid, HIDDEN)


def _cut(x: Tensor, first: int, last: int) -> Tensor:
    """x[:, first:last] with zeros (False) where that reaches beyond either end."""
    size = x.shape[1]
    inner = x[:, max(0, first) : min(size, last)]
    padding: Any = (0, 0) * (x.ndim - 2) + (max(0, -first), max(0, last - size))
    return F.pad(inner, padding) if any(padding) else inner
