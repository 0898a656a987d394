"""One layer of Zipformer: three feed-forwards, two attentions, two convolutions, non-linear attention."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.zipformer.attention import AttentionWeights, NonlinAttention, SelfAttention, StackFrames
from maya.encoders.zipformer.bias_norm import BiasNorm
from maya.encoders.zipformer.config import ZipformerConfig
from maya.encoders.zipformer.regularizers import (
    Balancer,
    Limit,
    Number,
    Schedule,
    Switch,
    Whiten,
    sequence_mask,
    shared_dropout_mask,
)
from maya.encoders.zipformer.swoosh import swoosh_l, swoosh_r


@dataclass(frozen=True, slots=True)
class LayerCache:
    """A layer's cache of earlier frames for the next chunk; L frames of left context, R = kernel // 2."""

    key: Tensor  # (B, L, H * Q)
    nonlin: Tensor  # (B, L, 3D/4)
    value1: Tensor  # (B, L, H * V)
    value2: Tensor  # (B, L, H * V)
    conv1: Tensor  # (B, R, D)
    conv2: Tensor  # (B, R, D)

    def tensors(self) -> list[Tensor]:
        """The tensors in the order of the fields, batch first."""
        return [getattr(self, f.name) for f in fields(self)]

    def keep(self, *extended: Tensor) -> "LayerCache":
        """The cache with the newest frames. extended: the tensors with frames added at the end."""
        pairs = zip(self.tensors(), extended, strict=True)
        return LayerCache(*(new[:, new.shape[1] - old.shape[1] :] for old, new in pairs))


class ZipformerLayer(nn.Module):
    """Yao et al. 2024 (arXiv:2310.11230), figure 2; parameters named as icefall's Zipformer2EncoderLayer."""

    def __init__(self, cfg: ZipformerConfig, stack: int, *, dropout: Number, skip: Number) -> None:
        """A layer of stack number `stack`. skip: probability that training leaves it out."""
        super().__init__()
        width, heads, ff = cfg.dims[stack], cfg.heads[stack], cfg.ff_dims[stack]
        kernel, value = cfg.conv_kernels[stack], cfg.value_head_dim
        self.self_attn_weights = AttentionWeights(
            width, heads, cfg.query_head_dim, cfg.pos_head_dim, cfg.pos_dim
        )
        self.self_attn1 = SelfAttention(width, heads, value)
        self.self_attn2 = SelfAttention(width, heads, value)
        self.feed_forward1 = SwooshFeedForward(width, ff * 3 // 4, dropout)
        self.feed_forward2 = SwooshFeedForward(width, ff, dropout)
        self.feed_forward3 = SwooshFeedForward(width, ff * 5 // 4, dropout)
        self.nonlin_attention = NonlinAttention(width)
        self.conv_module1 = GatedConvolution(width, kernel, cfg.causal)
        self.conv_module2 = GatedConvolution(width, kernel, cfg.causal)
        self.norm = BiasNorm(width)
        # Unused, in icefall too; it keeps checkpoints and parameter counts equal.
        self.bypass_scale = nn.Parameter(torch.full((width,), 0.5), requires_grad=False)
        self.bypass = Bypass(width, skip)
        self.bypass_mid = Bypass(width)
        self.attention_skip = Schedule((0, 0.2), (4000, 0.05), (16000, 0.0))
        self.conv_skip = Schedule((0, 0.2), (4000, 0.05), (16000, 0.0))
        self.ff2_skip = Schedule((0, 0.1), (4000, 0.01), (50000, 0.0))
        self.ff3_skip = Schedule((0, 0.1), (4000, 0.01), (50000, 0.0))
        self.uniform_attention = Switch(Schedule((0, 0.25), (4000, 0.025)))
        self.balancer_na = Balancer(0.3, 0.7, Schedule((0, 0.004), (4000, 0.02)), prob=0.05)
        self.balancer_ff2 = Balancer(0.3, 0.7, Schedule((0, 0.0), (4000, 0.1)), 2.0, prob=0.05)
        self.balancer_ff3 = Balancer(0.3, 0.7, Schedule((0, 0.0), (4000, 0.2)), 4.0, prob=0.05)
        self.balancer1 = Balancer(0.45, 0.55, 0.2, 4.0)
        self.balancer2 = Balancer(0.45, 0.55, 0.1, 4.0)
        self.whiten = Whiten(1, Schedule((0, 4.0), (20000, 12.0)), grad_scale=0.01)

    def forward(
        self, x: Tensor, span: StackFrames, cache: LayerCache | None = None
    ) -> tuple[Tensor, LayerCache | None]:
        """x (B, S, D) -> (B, S, D), and the cache for the next chunk if `cache` is given."""
        past = [None] * 6 if cache is None else cache.tensors()
        source = x
        skip = self._mask(x, self.attention_skip)
        weights, first, key = self.self_attn_weights(x, span, past[0])
        x = x + self.feed_forward1(x)
        y, nonlin = self.nonlin_attention(x, self._at_times_uniform(first), past[1])
        x = add_masked(x, self.balancer_na(y), skip)
        y, value1 = self.self_attn1(x, weights, past[2])
        x = add_masked(x, y, skip)
        y, conv1 = self.conv_module1(x, span, past[4])
        x = add_masked(x, y, self._mask(x, self.conv_skip))
        x = add_masked(x, self.balancer_ff2(self.feed_forward2(x)), self._mask(x, self.ff2_skip))
        x = self.bypass_mid(source, x)
        y, value2 = self.self_attn2(x, weights, past[3])
        x = add_masked(x, y, skip)
        y, conv2 = self.conv_module2(x, span, past[5])
        x = add_masked(x, y, self._mask(x, self.conv_skip))
        x = add_masked(x, self.balancer_ff3(self.feed_forward3(x)), self._mask(x, self.ff3_skip))
        x = self.bypass(source, self.norm(self.balancer1(x)))
        x = self.whiten(self.balancer2(x))
        return x, cache and cache.keep(key, nonlin, value1, value2, conv1, conv2)

    def _mask(self, x: Tensor, rate: Number) -> Tensor | None:
        return sequence_mask(x, rate) if self.training else None

    def _at_times_uniform(self, first: Tensor) -> Tensor:
        """The first head's weights (B, S, K). In some training steps they are uniform over the visible
        frames, so that non-linear attention learns to average over time."""
        on = self.uniform_attention.now()
        if not self.training or on is False:
            return first
        seen = (first > 0).to(first.dtype)
        uniform = seen / seen.sum(-1, keepdim=True)
        return torch.where(on > 0, uniform, first) if isinstance(on, Tensor) else uniform


def add_masked(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """x + y, or x + mask * y in one pass."""
    return x + y if mask is None else torch.addcmul(x, y.to(x.dtype), mask)


class SwooshFeedForward(nn.Module):
    """Linear, SwooshL, dropout of whole channels, linear."""

    def __init__(self, width: int, hidden: int, dropout: Number) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, hidden)
        self.hidden_balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.out_proj = nn.Linear(hidden, width)
        self.dropout = dropout
        self.out_whiten = Whiten(1, Schedule((0, 7.5), (20000, 15.0)), grad_scale=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        x = self.hidden_balancer(self.in_proj(x))
        mask = shared_dropout_mask(x, self.dropout) if self.training else None
        return self.out_whiten(swoosh_l.linear(x, self.out_proj.weight, self.out_proj.bias, mask))


class GatedConvolution(nn.Module):
    """Linear with a gate, depthwise convolution over time, SwooshR, linear."""

    def __init__(self, width: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * width)
        self.gate_balancer = Balancer(
            Schedule((0, 0.05), (8000, 0.025)), 1.0, 1.5, Schedule((0, 5.0), (8000, 10.0))
        )
        self.depthwise_conv: nn.Conv1d | ChunkCausalConv
        if causal:
            self.depthwise_conv = ChunkCausalConv(width, kernel)
        else:
            self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.out_balancer = Balancer(
            Schedule((0, 0.1), (8000, 0.05)), 1.0, Schedule((0, 0.2), (20000, 0.5)), 10.0
        )
        self.whiten = Whiten(1, Schedule((0, 7.5), (20000, 15.0)), grad_scale=0.01)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, span: StackFrames, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, S, D), past (B, R, D) -> (B, S, D), and the input of the convolution."""
        x = self.in_proj(x)
        # The switch is read last: a compiled graph must not depend on its state.
        if self.training and (torch.compiler.is_compiling() or self.gate_balancer.switch.on):
            x, gate = x.chunk(2, dim=-1)
            x = x * self.gate_balancer(gate).sigmoid()
        else:
            x = F.glu(x)
        x = x * span.valid.to(x.dtype)
        conv = self.depthwise_conv
        if isinstance(conv, ChunkCausalConv):
            x = F.pad(x, (0, 0, conv.reach, 0)) if past is None else torch.cat([past, x], 1)
            y = conv(x, span)
        else:
            y = depthwise(x, conv, conv.kernel_size[0] // 2)
        y = self.whiten(self.out_balancer(y))
        return swoosh_r.linear(y, self.out_proj.weight, self.out_proj.bias), x


class ChunkCausalConv(nn.Module):
    """A depthwise convolution that sees earlier frames and the later ones of its chunk.

    It is the sum of a causal convolution over the last K // 2 + 1 frames and a convolution of width K inside
    the chunk. The second is scaled by 1 plus a learned number for each frame near the chunk's edges.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.kernel, self.reach = kernel, kernel // 2
        self.causal_conv = nn.Conv1d(width, width, self.reach + 1, groups=width)
        self.chunkwise_conv = nn.Conv1d(width, width, kernel, groups=width)
        self.chunkwise_conv_scale = nn.Parameter(torch.zeros(2, width, kernel))  # left, right edge

    def forward(self, x: Tensor, span: StackFrames) -> Tensor:
        """(B, R + S, D) with R = K // 2 frames from before -> (B, S, D)."""
        causal = depthwise(x, self.causal_conv, 0)
        x = x[:, self.reach :]
        batch, size, width = x.shape
        if span.chunk < 0:
            y = depthwise(x, self.chunkwise_conv, self.reach)
            return torch.addcmul(causal, y, self._by_length(span, size).to(y.dtype))
        chunks = -(-size // span.chunk)
        padded = F.pad(x, (0, 0, 0, chunks * span.chunk - size)).view(batch * chunks, span.chunk, width)
        y = depthwise(padded, self.chunkwise_conv, self.reach) * self._in_chunk(span.chunk)
        return causal + y.reshape(batch, chunks * span.chunk, width)[:, :size]

    def _in_chunk(self, chunk: int) -> Tensor:
        """(C, D): the scale of each frame of a chunk of C."""
        past, right = self.chunkwise_conv_scale.mT
        short = min(chunk, self.kernel)
        past = F.pad(past[:short], (0, 0, 0, chunk - short))
        right = F.pad(right[self.kernel - short :], (0, 0, chunk - short, 0))
        return 1 + past + right

    def _by_length(self, span: StackFrames, size: int) -> Tensor:
        """(B, S, D): the same for utterances of one chunk, independent of the padding."""
        past, right = self.chunkwise_conv_scale.mT
        frame = torch.arange(size, device=right.device)
        row = (self.kernel - (span.lens[:, None] - 1 - frame)).clamp(0, self.kernel)
        scale = 1 + F.embedding(frame.clamp(max=self.kernel), F.pad(past, (0, 0, 0, 1)))
        return scale + F.embedding(row, F.pad(right, (0, 0, 1, 0)))


def depthwise(x: Tensor, conv: nn.Conv1d, padding: int) -> Tensor:
    """A depthwise convolution over time, (B, S, D) -> (B, S', D). As a channels-last 2-D convolution, the
    fastest exact form on a CPU."""
    image = x.transpose(1, 2)[:, :, None]
    y = F.conv2d(image, conv.weight[:, :, None], conv.bias, padding=(0, padding), groups=conv.groups)
    return y[:, :, 0].transpose(1, 2)


class Bypass(nn.Module):
    """source + (x - source) * bypass_scale, one scale for each channel.

    Early in training the scale stays near 1, so that every module learns. Training skips the layer for some
    sequences (scale 0).
    """

    def __init__(self, width: int, skip: Number = 0.0) -> None:
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((width,), 0.5))
        self.skip = skip
        self.limit = Limit(Schedule((0, 0.9), (20000, 0.2)), 1.0)

    def forward(self, source: Tensor, x: Tensor) -> Tensor:
        """Two (B, S, D) -> (B, S, D)."""
        scale = self.limit(self.bypass_scale)
        mask = sequence_mask(x, self.skip) if self.training else None
        scale = scale if mask is None else scale * mask
        return torch.lerp(source, x, scale.to(x.dtype))
