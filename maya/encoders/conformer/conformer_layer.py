"""The conformer layer (Gulati et al. 2020, arXiv:2005.08100), for whole utterances and for streams.

FastConformer and LaCT use it; they differ in what mixes the frames. Code that only makes it faster is in
`in_place` and `packed_rows`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maya.encoders.conformer.attention import Frames
from maya.encoders.conformer.dropout import Dropout
from maya.encoders.conformer.in_place import in_parts
from maya.encoders.conformer.masked_norm import MaskedBatchNorm, untracked_statistics
from maya.encoders.conformer.packed_rows import Rows, with_gaps
from maya.kernels import onednn
from maya.kernels.onednn import QuickLinear


class ConformerLayer(nn.Module):
    """Half feed-forward, mixer, convolution, half feed-forward, each on a residual branch; final norm.

    A subclass makes the modules, in the order and under the names that its checkpoints have, and says how its
    mixer works with `mix` and `mix_step`.
    """

    norm_feed_forward1: nn.LayerNorm
    feed_forward1: nn.Module
    norm_conv: nn.LayerNorm
    conv: "ConvModule"
    norm_feed_forward2: nn.LayerNorm
    feed_forward2: nn.Module
    norm_out: nn.LayerNorm
    dropout: Dropout

    def mix(self, x: Tensor, frames: Frames, memory: Any = None) -> Tensor:
        """The norm and the mixer, x (B, S, D) -> (B, S, D)."""
        raise NotImplementedError

    def mix_step(self, x: Tensor, cache: Tensor, frames: Frames, memory: Any = None) -> tuple[Tensor, Tensor]:
        """The same for one piece x (B, n, D). cache (B, m, M): what the mixer keeps of m frames. Returns
        (B, n, D), and the same of all frames, (B, m + n, M)."""
        raise NotImplementedError

    def forward(self, x: Tensor, frames: Frames, memory: Any = None) -> Tensor:
        """x (B, S, D) -> (B, S, D). memory: what the mixer remembers, changed in place; None for nothing."""
        x = torch.add(x, self.dropout(self.feed_forward1(self.norm_feed_forward1(x))), alpha=0.5)
        x = x + self.dropout(self.mix(x, frames, memory))
        x = x + self.dropout(self.conv(self.norm_conv(x), frames.valid, frames.rows))
        x = torch.add(x, self.dropout(self.feed_forward2(self.norm_feed_forward2(x))), alpha=0.5)
        return self.norm_out(x)

    def stream_step(
        self, x: Tensor, caches: tuple[Tensor, Tensor], frames: Frames, memory: Any = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`forward` for one piece of a stream, in evaluation.

        x (B, n, D). caches: what the mixer keeps (B, m, M), and inputs of the convolution (B, D, k - 1).
        frames.valid: (B, m + n). Returns (B, n, D), and what the next caches are cut from: (B, m + n, M) and
        (B, k - 1 + n, D).
        """
        x = torch.add(x, self.feed_forward1(self.norm_feed_forward1(x)), alpha=0.5)
        y, mixed = self.mix_step(x, caches[0], frames, memory)
        x = x + y
        y, convolved = self.conv.stream(self.norm_conv(x), caches[1], frames.valid[:, caches[0].shape[1] :])
        x = x + y
        x = torch.add(x, self.feed_forward2(self.norm_feed_forward2(x)), alpha=0.5)
        return self.norm_out(x), (mixed, convolved)


def checkpointed(layer: nn.Module, *inputs: Any, run: Callable[..., Any] | None = None) -> Any:
    """run(*inputs), by default layer(*inputs), computed once more in the backward pass instead of kept;
    statistics of the layer move once."""
    contexts = partial(_checkpoint_contexts, layer)
    return checkpoint(run or layer, *inputs, use_reentrant=False, context_fn=contexts)


def _checkpoint_contexts(layer: nn.Module) -> tuple[Any, Any]:
    """For the first forward pass and for the one repeated in the backward pass."""
    return nullcontext(), untracked_statistics(layer)


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.linear1 = QuickLinear(cfg.d_model, cfg.d_model * cfg.ff_expansion, bias=cfg.use_bias)
        self.linear2 = QuickLinear(cfg.d_model * cfg.ff_expansion, cfg.d_model, bias=cfg.use_bias)
        self.dropout = Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        # Adapters may stand in the place of the layers.
        own = type(self.linear1).forward is QuickLinear.forward and not self.linear1._forward_hooks
        quick = own and onednn.suits(x) and onednn.available()
        return in_parts(self._inner_silu if quick and not self.training else self._inner, x)

    def _inner(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.silu(self.linear1(x))))

    def _inner_silu(self, x: Tensor) -> Tensor:
        return self.linear2(onednn.linear(x, self.linear1.weight, self.linear1.bias, silu=True))


class ConvModule(nn.Module):
    """Pointwise, GLU, depthwise, norm, SiLU, pointwise, frames by channels. The sizes are those of a
    FastConformerConfig or a LaCTConfig.

    Keeping channels last saves four layout changes a layer; the depthwise convolution then runs as a
    channels-last two-dimensional one, the fastest exact form on a CPU (1.4 times conv1d's speed at 256
    channels, forward and backward).
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        width, kernel, bias = cfg.d_model, cfg.conv_kernel, cfg.use_bias
        self.causal = cfg.conv_context == "causal"
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=bias)
        # NeMo calls it batch_norm whatever it is.
        self.batch_norm: nn.Module
        if cfg.conv_norm == "batch_norm":
            self.batch_norm = MaskedBatchNorm(width, masked=cfg.masked_norm)
        else:
            self.batch_norm = nn.LayerNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x: Tensor, valid: Tensor, rows: Rows | None = None) -> Tensor:
        """(B, S, D), (B, S) bool -> (B, S, D). rows: how utterances are packed into x."""
        x, reach = self.gated(x, valid), self.depthwise_conv.kernel_size[0] - 1
        padding = reach if self.causal else reach // 2

        def convolved(x: Tensor) -> Tensor:
            # A causal convolution is padded on both sides and what that adds behind is cut off.
            return self.depthwise(x, padding)[:, : x.shape[1]]

        return self.after(with_gaps(convolved, x, rows, padding), valid)

    def stream(self, x: Tensor, cache: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """One piece of a stream: x (B, n, D), cache (B, D, k-1), valid (B, n).

        Returns (B, n, D), and what the next piece's cache is cut from, (B, k-1+n, D).
        """
        x = torch.cat([cache.transpose(1, 2), self.gated(x, valid)], dim=1)
        return self.after(self.depthwise(x, 0), valid), x

    def gated(self, x: Tensor, valid: Tensor) -> Tensor:
        """The input of the depthwise convolution, zero on padding."""
        y, padding = F.glu(_pointwise(x, self.pointwise_conv1)), ~valid
        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if y.is_cpu and not torch.is_grad_enabled() and not is_traced:
            y[padding] = 0.0  # writes these frames alone
            return y
        return y.masked_fill_(padding[..., None], 0.0)

    def depthwise(self, x: Tensor, padding: int) -> Tensor:
        """The depthwise convolution of (B, S, D), `padding` zero frames on both sides."""
        conv = self.depthwise_conv
        image = x.transpose(1, 2)[:, :, None]  # (B, D, 1, S): channels last, no copy
        weight = conv.weight[:, :, None]
        image = F.conv2d(image, weight, conv.bias, padding=(0, padding), groups=conv.groups)
        return image[:, :, 0].transpose(1, 2)

    def after(self, x: Tensor, valid: Tensor) -> Tensor:
        """What follows the depthwise convolution."""
        x = self.batch_norm(x, valid) if isinstance(self.batch_norm, MaskedBatchNorm) else self.batch_norm(x)
        return _pointwise(F.silu(x), self.pointwise_conv2)


def _pointwise(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A kernel-1 convolution applied to (..., D) as the matrix product it is."""
    product = F.linear if torch.is_grad_enabled() or not onednn.available() else onednn.linear
    return product(x, conv.weight[:, :, 0], conv.bias)
