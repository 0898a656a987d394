"""Stacks of Zipformer layers, each at its own frame rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maya.encoders.lact.zipformer import FastWeightZipformerLayer
from maya.encoders.zipformer.attention import StackFrames
from maya.encoders.zipformer.config import ZipformerConfig
from maya.encoders.zipformer.layer import Bypass, LayerCache, ZipformerLayer
from maya.encoders.zipformer.regularizers import Number, Schedule
from maya.features.frames import frame_mask


def make_stack(cfg: ZipformerConfig, index: int, dropout: Number) -> nn.Module:
    """Stack `index`. During the warm-up the skip probability of each layer falls from a half, one layer after
    another."""
    width, factor, count = cfg.dims[index], cfg.downsampling[index], cfg.layers[index]
    step = cfg.warmup_batches / (len(cfg.dims) + 1)
    make = ZipformerLayer if cfg.fast_weights is None else FastWeightZipformerLayer
    layers = []
    for layer in range(count):
        begin = step * (index + 1 + layer / count)
        skip = Schedule((begin, 0.5), (begin + step / count, 0.035 * math.sqrt(factor)))
        layers.append(make(cfg, index, dropout=dropout, skip=skip))
    stack = Stack(layers, cfg.activation_checkpointing)
    return stack if factor == 1 else DownsampledStack(width, factor, stack)


class Stack(nn.Module):
    """Layers at one frame rate."""

    def __init__(self, layers: list[ZipformerLayer], checkpointing: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.checkpointing = checkpointing

    def forward(
        self,
        x: Tensor,
        lens: Tensor | None,
        span: StackFrames,
        mask: Tensor | None,
        caches: list[LayerCache] | None = None,
    ) -> tuple[Tensor, list[LayerCache]]:
        """x (B, S, D) -> (B, S, D), and in streaming the new caches. mask (B, 1, D) multiplies the
        channels."""
        x = x if mask is None else x * mask
        kept = []
        for index, layer in enumerate(self.layers):
            if caches is not None:
                x, cache = layer(x, span, caches[index])
                kept.append(cache)
            elif self.checkpointing and torch.is_grad_enabled():
                x, _ = checkpoint(layer, x, span, use_reentrant=False)
            else:
                x, _ = layer(x, span)
            x = x if mask is None else x * mask
        return x, kept


class DownsampledStack(nn.Module):
    """Layers at a lower frame rate. Their output is repeated and mixed with the input."""

    def __init__(self, width: int, factor: int, stack: Stack) -> None:
        super().__init__()
        self.factor = factor
        self.downsample = Downsample(factor)
        self.encoder = stack
        self.out_combiner = Bypass(width)

    def forward(self, x: Tensor, lens: Tensor | None, *rest: Any) -> tuple[Tensor, list[LayerCache]]:
        """As `Stack`, whose arguments `rest` are, at the lower rate; `lens` (B,) is for `Downsample`."""
        y, kept = self.encoder(self.downsample(x, lens), lens, *rest)
        y = y.repeat_interleave(self.factor, 1)[:, : x.shape[1]]
        return self.out_combiner(x, y), kept


class Downsample(nn.Module):
    """A weighted mean of every `factor` frames; the weights are a softmax of `bias`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, ceil(T / factor), C).

        An incomplete last group is filled with the last frame of the batch, or with `lens` (B,) of each
        utterance.
        """
        size = (x.shape[1] + self.factor - 1) // self.factor
        missing = size * self.factor - x.shape[1]
        weight = self.bias.softmax(0).to(x.dtype)
        if lens is None:
            if missing:
                x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], 1)
            return (x.unflatten(1, (-1, self.factor)) * weight[:, None]).sum(2)
        last = x[torch.arange(x.shape[0], device=x.device), (lens - 1).clamp(min=0)]
        valid = frame_mask(lens, size * self.factor)
        weight = weight * valid.unflatten(1, (-1, self.factor))  # (B, S, factor)
        x = nn.functional.pad(x, (0, 0, 0, missing)) if missing else x
        y = (x.unflatten(1, (-1, self.factor)) * weight[..., None]).sum(2)
        return torch.addcmul(y, (1 - weight.sum(-1, keepdim=True)), last[:, None])


def with_channels(x: Tensor, width: int) -> Tensor:
    """(B, T, C) with channels removed or zeros added."""
    return x[..., :width] if width <= x.shape[-1] else nn.functional.pad(x, (0, width - x.shape[-1]))
