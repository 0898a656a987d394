"""Zipformer's attention: three modules share the weights (Yao et al. 2024, arXiv:2310.11230)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maya.encoders.zipformer.regularizers import Balancer, LossScale, Schedule, Switch, Whiten

HIDDEN = -1000.0  # added to the score of a hidden key; finite, so that a row without keys is not NaN
SCORE_LIMIT, SCORE_PENALTY = 25.0, 1e-4
CACHED_SCORES = 1 << 18  # 1 MiB in fp32


def compact_positions(queries: int, keys: int, width: int, device: torch.device) -> Tensor:
    """(keys + queries - 1, width) fp32: row r is for a key r - (keys - 1) frames after its query.

    An offset x is compressed to y = c sign(x) (ln(|x| + c) - ln c), c = sqrt(width), then to an angle
    a = atan(2 pi y / width). The row is cos(k a), sin(k a) for k = 1 .. width / 2, the last number replaced
    by 1. Offsets of near frames are exact, those of far frames coarse.
    """
    offset = torch.arange(1 - keys, queries, dtype=torch.float32, device=device)[:, None]
    root = math.sqrt(width)
    compressed = root * offset.sign() * ((offset.abs() + root).log() - math.log(root))
    angle = (compressed * (2 * math.pi / width)).atan()
    angle = angle * torch.arange(1, width // 2 + 1, device=device)
    table = torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
    return torch.cat([table[:, :-1], torch.ones_like(offset)], 1)


@dataclass(frozen=True, slots=True)
class StackFrames:
    """The frames of one stack: B sequences of S queries and K >= S keys. The last S keys are the queries' own
    frames."""

    valid: Tensor  # (B, S, 1) 1 on valid frames, 0 on padding, in the type of the frames
    key_bias: Tensor  # (B, K, 1) 0, or HIDDEN for keys that are padding
    positions: Tensor  # (K + S - 1, P)
    hidden: Tensor | None  # (S, K) bool, True on keys outside of a query's chunks; None: all keys are visible
    chunk: int  # frames in a chunk; -1: the whole utterance
    lens: Tensor  # (B,) int64 valid frames


class AttentionWeights(nn.Module):
    """softmax(q k + p linear_pos(positions)), with queries, keys and a few channels p for positions.

    Scores are not divided by sqrt(K): the projection has smaller initial weights instead.
    """

    def __init__(self, width: int, heads: int, query: int, pos_head: int, pos: int) -> None:
        super().__init__()
        self.heads, self.query, self.pos_head = heads, query, pos_head
        self.in_proj = nn.Linear(width, heads * (2 * query + pos_head))
        self.linear_pos = nn.Linear(pos, heads * pos_head, bias=False)
        self.balance_keys = Balancer(0.4, 0.6, 0.0, 100.0, prob=0.025)
        self.whiten_keys = Whiten(heads, Schedule((0, 3.0), (20000, 6.0)), grad_scale=0.025)
        self.without_positions = Switch(Schedule((0, 0.5), (4000, 0.0)))
        self.penalise, self.loss_scale = Switch(0.1), LossScale()

    def forward(
        self, x: Tensor, span: StackFrames, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D), `past` (B, K - S, H * Q) earlier keys -> weights (B, H, S, K), those of the first head
        (B, S, K), keys (B, K, H * Q)."""
        q, k, p = self.in_proj(x).split(
            [self.heads * n for n in (self.query, self.query, self.pos_head)], dim=-1
        )
        k = self.whiten_keys(self.balance_keys(k))
        if past is not None:
            k = torch.cat([past, k], 1)
        keys = k
        table = self.linear_pos(span.positions.to(x.dtype))
        p, table = self._drop_positions(p, table)
        penalty = self._penalty()
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        # The key mask is one more channel of the keys; the queries have a channel of ones for it.
        bias = span.key_bias.to(k.dtype)[:, :, None].expand(-1, -1, self.heads, 1)
        k = torch.cat([k.unflatten(-1, (self.heads, -1)), bias], -1).transpose(1, 2)
        q = F.pad(q, (0, 1), value=1.0)
        p = p.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, S, P)
        table = table.unflatten(-1, (self.heads, -1)).permute(1, 2, 0)  # (H, P, K + S - 1)
        if penalty is None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            with torch.autocast(x.device.type, enabled=False):
                weights, first = _Weights.apply(q, *(t.to(q.dtype) for t in (k, p, table)), span.hidden)
            return weights, first, keys
        scores = q @ k.mT + relative_shift(p @ table, k.shape[2])
        if penalty is not None:
            scores = _Penalise.apply(scores, penalty)
        if span.hidden is not None:
            scores = scores.masked_fill(span.hidden, HIDDEN)
        weights = scores.softmax(-1).to(scores.dtype)
        return weights, weights[:, 0], keys

    def _drop_positions(self, p: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Some training steps use no positions. The product with 0 gives every parameter a gradient (zero),
        which DDP needs."""
        on = self.without_positions.now()
        if not self.training or on is False:
            return p, table
        return p * (1 - on), table

    def _penalty(self) -> Tensor | float | None:
        on = self.penalise.now()
        return None if not self.training or on is False else SCORE_PENALTY * on * self.loss_scale.now()


def relative_shift(scores: Tensor, keys: int) -> Tensor:
    """(..., S, K + S - 1) over the rows of `compact_positions` -> (..., S, K): [i, j] = scores[i, S-1-i+j].

    Each row starts one element earlier than the row before it, so the result is a strided window in memory.
    """
    size, row = scores.shape[-2:]
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # as_strided has no ONNX form
        steps = torch.arange(size - 1, -1, -1, device=scores.device)[:, None]
        index = steps + torch.arange(keys, device=scores.device)
        return scores.gather(-1, index.expand(*scores.shape[:-2], size, keys))
    scores = scores.contiguous()
    if torch.compiler.is_compiling() and size > 0:
        # torch.compile cannot trace a storage offset. This is the same window, as a view with shorter rows,
        # which takes twice as long, 2.5 against 1.3 ms for (8, 4, 250, 499) with its gradient on a CPU core.
        if size == 1:
            return scores[..., :keys]
        flat = scores.flatten(-2)[..., size - 1 : size * row - 1]
        return flat.unflatten(-1, (size, row - 1))[..., :keys]
    *outer, by_row, step = scores.stride()
    shape = (*scores.shape[:-1], keys)
    return scores.as_strided(shape, (*outer, by_row - step, step), scores.storage_offset() + size - 1)


class _Weights(torch.autograd.Function):
    """Weights (B, H, S, K) from queries (B, H, S, Q), keys (B, H, K, Q), position queries (B, H, S, P), table
    (H, P, K + S - 1), and a mask (S, K); and a copy (B, S, K) of the first head's.

    Autograd on the same lines needs half as many passes again over tensors of this size, to pad two gradients
    with zeros: that of the shifted scores and that of the first head. On a CPU the batch is computed in parts
    whose scores fit into the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, p: Tensor, table: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weights = q.new_empty(*q.shape[:3], k.shape[2])
        for rows in _rows(q, k.shape[2]):
            scores = relative_shift(p[rows] @ table, k.shape[2])
            scores = (q[rows] @ k[rows].mT).add_(scores)
            if hidden is not None:
                scores.masked_fill_(hidden, HIDDEN)
            torch.softmax(scores, -1, out=weights[rows])
        ctx.save_for_backward(q, k, p, table, weights)
        return weights, weights[:, 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_first: Tensor) -> tuple[Tensor | None, ...]:
        q, k, p, table, weights = ctx.saved_tensors
        grads = q.new_empty(q.shape), k.new_empty(k.shape), p.new_empty(p.shape)
        grad_table, padded = torch.zeros_like(table), None
        for rows in _rows(q, k.shape[2]):
            kept = weights[rows]
            scores = _softmax_backward(grad[rows], kept)
            scores[:, 0] += _softmax_backward(grad_first[rows], kept[:, 0])
            if padded is None or len(padded) != len(scores):  # zero outside of the window that is written
                padded = scores.new_zeros(*scores.shape[:3], table.shape[-1])
            window = relative_shift(padded, k.shape[2])
            window.copy_(scores)
            torch.matmul(scores, k[rows], out=grads[0][rows])
            torch.matmul(scores.mT, q[rows], out=grads[1][rows])
            torch.matmul(padded, table.mT, out=grads[2][rows])
            grad_table += (p[rows].mT @ padded).sum(0)
        return *grads, grad_table, None


def _rows(q: Tensor, keys: int) -> list[slice]:
    """Parts of a batch of queries (B, H, S, Q): on a CPU so many rows that their scores fit into the
    cache."""
    if q.device.type != "cpu":
        return [slice(None)]
    step = max(1, CACHED_SCORES // (q.shape[1] * q.shape[2] * keys))
    return [slice(row, row + step) for row in range(0, len(q), step)]


def _softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)


class _Penalise(torch.autograd.Function):
    """Returns scores as they are; adds penalty * sign to the gradient of those beyond SCORE_LIMIT. Hidden
    keys are left out: their scores are large because of the mask, not of the projections."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, penalty: Tensor | float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.penalty = penalty
        return scores.view_as(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        beyond = scores.sign() * ((scores.abs() > SCORE_LIMIT) & (scores > HIDDEN / 2))
        return grad + beyond * ctx.penalty, None


class SelfAttention(nn.Module):
    """Values averaged with given attention weights."""

    def __init__(self, width: int, heads: int, value: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, heads * value)
        self.out_proj = nn.Linear(heads * value, width)
        self.whiten = Whiten(1, Schedule((0, 7.5), (20000, 22.5)), grad_scale=0.01)

    def forward(self, x: Tensor, weights: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, S, D), weights (B, H, S, K), past (B, K - S, H * V) -> (B, S, D), values (B, K, H * V)."""
        values = self.in_proj(x)
        if past is not None:
            values = torch.cat([past, values], 1)
        y = weights @ values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.whiten(self.out_proj(y.transpose(1, 2).flatten(2))), values


class NonlinAttention(nn.Module):
    """out(y * (W (x * tanh(s)))): attention instead of a convolution, one head for all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 3 * width // 4
        self.in_proj = nn.Linear(width, 3 * hidden)
        self.balancer = Balancer(
            Schedule((0, 0.25), (20000, 0.05)), Schedule((0, 0.75), (20000, 0.95)), 0.5, 5.0
        )
        self.whiten1 = Whiten(1, Schedule((0, 5.0), (20000, 10.0)), grad_scale=0.01)
        self.out_proj = nn.Linear(hidden, width)
        self.whiten2 = Whiten(1, Schedule((0, 5.0), (20000, 15.0)), grad_scale=0.01)

    def forward(self, x: Tensor, weights: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, S, D), weights (B, S, K), past (B, K - S, 3D/4) -> (B, S, D), gated frames (B, K, 3D/4)."""
        s, x, y = self.in_proj(x).chunk(3, dim=-1)
        gated = self.whiten1(x) * self.balancer(s).tanh()
        if past is not None:
            gated = torch.cat([past, gated], 1)
        return self.whiten2(self.out_proj((weights @ gated) * y)), gated
