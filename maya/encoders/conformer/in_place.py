"""Layers written over their input, block by block. This only saves memory and time where no gradient is
needed: hours of audio take ten times the size of a layer's input in one piece. The layers are the same
without it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.conformer.attention import Frames, Keys, RelPositionAttention
from maya.kernels import onednn

BLOCK_FRAMES = 2048  # audio of more than twice this many frames goes through in blocks of about so many


def takes_blocks(layers: nn.ModuleList, x: Tensor) -> bool:
    """Whether x (B, S, D) is long enough, needs no gradient, and all layers have plain attention."""
    return (
        x.shape[1] > 2 * BLOCK_FRAMES
        and not (layers.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        and all(type(getattr(layer, "self_attn", None)) is RelPositionAttention for layer in layers)
    )


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of frames x (B, S, D), part by part where no gradient is needed and x is long, or that is
    faster."""
    if torch.is_grad_enabled():
        return function(x)
    if onednn.suits(x) and onednn.available():
        return onednn.in_blocks(function, x)
    if x.shape[1] <= 2 * BLOCK_FRAMES:
        return function(x)
    return torch.cat([function(part) for part in x.split(BLOCK_FRAMES, dim=1)], dim=1)


def run_layer(layer: Any, x: Tensor, frames: Frames) -> None:
    """`ConformerLayer.forward` written over x (B, S, D), about `BLOCK_FRAMES` at a time; in evaluation."""
    block = BLOCK_FRAMES
    for part in x.split(block, dim=1):
        part.add_(layer.feed_forward1(layer.norm_feed_forward1(part)), alpha=0.5)
    add_attention(layer.self_attn, x, layer.norm_self_att, frames, block)
    add_convolution(layer.conv, x, layer.norm_conv, frames.valid, block)
    for part in x.split(block, dim=1):
        part.add_(layer.feed_forward2(layer.norm_feed_forward2(part)), alpha=0.5)
        part.copy_(layer.norm_out(part))


def add_attention(attn: RelPositionAttention, x: Tensor, norm: nn.Module, frames: Frames, block: int) -> None:
    """x (B, S, D) += attn(norm(x)). With a bounded span keys and values are held only as far as the queries
    reach."""
    p = attn.split_heads(attn.linear_pos, frames.positions)
    if frames.rows is None:
        _add_rows(attn, x, norm, p, frames, block)
        return
    for row in frames.rows.split(x):
        _add_rows(attn, row, norm, p, frames, block)


def _add_rows(
    attn: RelPositionAttention, x: Tensor, norm: nn.Module, p: Tensor, frames: Frames, block: int
) -> None:
    size, span = x.shape[1], frames.span
    valid = frames.valid if frames.rows is None else None
    local = span.bounded and size > span.window
    left_frames, right = span.reach if local else (size, size)
    unit = span.block if local else max(1, span.chunk)
    block = max(1, block // unit) * unit
    k = v = x.new_zeros(x.shape[0], 0, attn.heads, attn.head_size)
    begin = end = 0  # of the keys that are held
    for first in range(0, size, block):
        last = min(first + block, size)
        start, keys, values = max(0, first - left_frames), [], []
        while end < min(last + right, size):  # before anything up to there is written
            ahead = norm(x[:, end : min(last + right, size, end + block)])
            keys.append(attn.split_heads(attn.linear_k, ahead))
            values.append(attn.split_heads(attn.linear_v, ahead))
            end += ahead.shape[1]
        k = torch.cat([k[:, start - begin :], *keys], dim=1)
        v = torch.cat([v[:, start - begin :], *values], dim=1)
        begin = start
        q = attn.split_heads(attn.linear_q, norm(x[:, first:last]))
        held = Keys(k, v, None if valid is None else valid[:, begin:end], before=first - begin)
        y = (attn.attend_local if local else attn.attend_blocks)(q, held, p, span)
        x[:, first:last] += attn.linear_out(y.flatten(2))


def add_convolution(conv: Any, x: Tensor, norm: nn.Module, valid: Tensor, block: int) -> None:
    """x (B, S, D) += conv(norm(x), valid), `block` frames at a time."""
    size, reach = x.shape[1], conv.depthwise_conv.kernel_size[0] - 1
    ahead = 0 if conv.causal else reach // 2
    gated, end = x.new_zeros(x.shape[0], reach - ahead, x.shape[2]), 0
    for first in range(0, size, block):
        last = min(first + block, size)
        new = conv.gated(norm(x[:, end : last + ahead]), valid[:, end : last + ahead])
        beyond = max(0, last + ahead - max(size, end))
        gated = torch.cat([gated, F.pad(new, (0, 0, 0, beyond))], dim=1)
        x[:, first:last] += conv.after(conv.depthwise(gated, 0), valid[:, first:last])
        gated, end = gated[:, last - first :], last + ahead
