"""Streams of a causal Zipformer on a CPU with little beside the products: what a voice server runs.

`ZipformerStream` computes the same with the modules themselves. Here weights lie ready for the products
(`PackedLinear`), the constants of SwooshL and SwooshR are in the biases around them, positions and masks are
made once, and a stream has a cache for each stack that new frames are written into.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.zipformer.attention import HIDDEN, compact_positions
from maya.encoders.zipformer.bias_norm import BiasNorm
from maya.encoders.zipformer.layer import ZipformerLayer
from maya.encoders.zipformer.stack import with_channels
from maya.encoders.zipformer.swoosh import SLOPE, Swoosh, swoosh_l, swoosh_r
from maya.kernels.packed import PackedLinear, padded_batch

STEPS = 4  # chunks that fit into a cache behind its context, before the newest frames move to its start
FEW_TAPS = 512  # products of a channel in a convolution, up to which torch's convolution takes longer
FRONT_ROWS = 2  # at once through the convolutions in front


def before_swoosh(layer: Any, kind: Swoosh) -> PackedLinear:
    """A layer whose output is the argument of the softplus."""
    own = PackedLinear.of(layer)
    return PackedLinear(
        own.weight,
        (0.0 if own.bias is None else own.bias) - own.weight.new_full((len(own.weight),), kind.shift),
    )


def after_swoosh(layer: Any, kind: Swoosh) -> PackedLinear:
    """A layer that takes softplus(h) - SLOPE h, h being the argument of the softplus."""
    own = PackedLinear.of(layer)
    rest = own.weight.sum(1) * (SLOPE * kind.shift + kind.constant)
    return PackedLinear(own.weight, (0.0 if own.bias is None else own.bias) - rest)


def bent(h: Tensor) -> Tensor:
    """softplus(h) - SLOPE h."""
    return F.softplus(h, 1.0, 40.0).sub_(h, alpha=SLOPE)


class LiveConvolution:
    """A `GatedConvolution` for chunks of one size."""

    def __init__(self, module: Any, chunk: int) -> None:
        conv, self.chunk = module.depthwise_conv, chunk
        self.gate, self.out = PackedLinear.of(module.in_proj), after_swoosh(module.out_proj, swoosh_r)
        self.reach, kernel = conv.reach, conv.kernel
        scale = conv._in_chunk(chunk)  # (n, D)
        self.causal, self.inner, self.scale = conv.causal_conv, conv.chunkwise_conv, scale
        # (n, R + n, D): what each input adds to each frame.
        taps = scale.new_zeros(chunk, self.reach + chunk, scale.shape[1])
        for i in range(chunk):
            taps[i, i : i + self.reach + 1] += conv.causal_conv.weight[:, 0].t()
            for j in range(chunk):
                if 0 <= (tap := j - i + self.reach) < kernel:
                    taps[i, self.reach + j] += conv.chunkwise_conv.weight[:, 0, tap] * scale[i]
        self.taps = taps
        self.bias = conv.causal_conv.bias + conv.chunkwise_conv.bias * scale - swoosh_r.shift  # (n, D)

    def added_to(self, x: Tensor, cache: Tensor) -> Tensor:
        """x (B n, D), cache (B, R + n, D), of which the last n frames are written -> (B n, D)."""
        batch, n, width = cache.shape[0], self.chunk, cache.shape[2]
        cache[:, self.reach :] = F.glu(self.gate(x)).view(batch, n, width)
        if batch * n * (self.reach + n) <= FEW_TAPS:
            y = (cache[:, None] * self.taps).sum(2)
        else:
            image = cache.transpose(1, 2)[:, :, None]
            y = F.conv2d(image, self.causal.weight[:, :, None], groups=width)[:, :, 0].transpose(1, 2)
            inner = F.conv2d(image[..., self.reach :], self.inner.weight[:, :, None], padding=(0, self.reach),
                             groups=width)[:, :, 0].transpose(1, 2)  # fmt: skip
            y = torch.addcmul(y, inner, self.scale)
        y = y.add_(self.bias)
        return self.out.added_to(x, bent(y).view(batch * n, width))


class LiveZipformerLayer:
    """The weights of a `ZipformerLayer`. sizes: channels of its cache for keys, non-linear attention and the
    values of both attentions."""

    def __init__(self, layer: Any, chunk: int, before: int) -> None:
        attention, self.chunk, self.before = layer.self_attn_weights, chunk, before
        self.heads, self.query, self.pos = attention.heads, attention.query, attention.pos_head
        first = before_swoosh(layer.feed_forward1.in_proj, swoosh_l)
        own = PackedLinear.of(attention.in_proj)
        assert own.bias is not None and first.bias is not None
        self.first = PackedLinear(torch.cat([own.weight, first.weight]), torch.cat([own.bias, first.bias]))
        self.scored = len(own.weight)
        self.first_out = after_swoosh(layer.feed_forward1.out_proj, swoosh_l)
        self.forwards = [
            (before_swoosh(part.in_proj, swoosh_l), after_swoosh(part.out_proj, swoosh_l))
            for part in (layer.feed_forward2, layer.feed_forward3)
        ]
        self.nonlin = PackedLinear.of(layer.nonlin_attention.in_proj)
        self.nonlin_out = PackedLinear.of(layer.nonlin_attention.out_proj)
        self.values = [
            (PackedLinear.of(part.in_proj), PackedLinear.of(part.out_proj))
            for part in (layer.self_attn1, layer.self_attn2)
        ]
        self.convolutions = [
            LiveConvolution(part, chunk) for part in (layer.conv_module1, layer.conv_module2)
        ]
        self.middle, self.bypass = layer.bypass_mid.bypass_scale, layer.bypass.bypass_scale
        self.norm: BiasNorm = layer.norm
        value = len(self.values[0][0].weight)
        self.sizes = [self.heads * self.query, len(self.nonlin.weight) // 3, value, value]
        positions = compact_positions(
            chunk, before + chunk, attention.linear_pos.in_features, own.weight.device
        )
        # (H, P, K + n - 1)
        self.table = (
            attention.linear_pos(positions).unflatten(-1, (self.heads, -1)).permute(1, 2, 0).contiguous()
        )

    def step(self, x: Tensor, cache: Tensor, inputs: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """x (B n, D) -> (B n, D). cache (B, before + n, sum of `sizes`) and inputs, two of (B, R + n, D): of
        earlier frames; the last n are written."""
        keys, gated, *values = cache.split(self.sizes, 2)
        batch, n, source = cache.shape[0], self.chunk, x
        both = self.first(x)
        weights = self._weights(both[:, : self.scored], keys, mask)
        x = self.first_out.added_to(x.clone(), bent(both[:, self.scored :]))
        s, a, y = self.nonlin(x).chunk(3, 1)
        gated[:, self.before :] = (a * s.tanh()).view(batch, n, -1)
        mixed = torch.bmm(weights[:, 0], gated).view(batch * n, -1)
        x = self.nonlin_out.added_to(x, mixed.mul_(y))
        x = self._attend(x, 0, values[0], weights)
        x = self.convolutions[0].added_to(x, inputs[0])
        inner, outer = self.forwards[0]
        x = outer.added_to(x, bent(inner(x)))
        x = torch.lerp(source, x, self.middle)
        x = self._attend(x, 1, values[1], weights)
        x = self.convolutions[1].added_to(x, inputs[1])
        inner, outer = self.forwards[1]
        x = outer.added_to(x, bent(inner(x)))
        return torch.lerp(source, self.norm(x), self.bypass)

    def _weights(self, projected: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """(B n, queries, keys and positions) -> (B, H, n, before + n)."""
        batch, m, n, width = keys.shape[0], keys.shape[1], self.chunk, self.sizes[0]
        keys[:, self.before :] = projected[:, width : 2 * width].view(batch, n, width)
        q = projected[:, :width].view(batch, n, self.heads, self.query).transpose(1, 2)
        k = keys.unflatten(2, (self.heads, self.query)).permute(0, 2, 3, 1)
        p = projected[:, 2 * width :].view(batch * n, self.heads, self.pos).transpose(0, 1)
        offsets = self.table.shape[2]
        strides = (n * offsets, batch * n * offsets, offsets - 1, 1)
        shifted = torch.bmm(p, self.table).as_strided((batch, self.heads, n, m), strides, n - 1)
        scores = torch.bmm(q[0], k[0])[None] if batch == 1 else q @ k
        scores += shifted
        if mask is not None:
            scores += mask
        return scores.softmax(-1)

    def _attend(self, x: Tensor, number: int, cache: Tensor, weights: Tensor) -> Tensor:
        """x with attention number 0 or 1 added."""
        batch, n = cache.shape[0], self.chunk
        inner, outer = self.values[number]
        cache[:, self.before :] = inner(x).view(batch, n, -1)
        values = cache.unflatten(2, (self.heads, -1)).transpose(1, 2)
        y = torch.bmm(weights[0], values[0])[None] if batch == 1 else weights @ values
        return outer.added_to(x, y.transpose(1, 2).reshape(batch * n, -1))


class LiveStack:
    """A stack at one frame rate; n frames of a chunk, `before` frames of context."""

    def __init__(self, module: Any, factor: int, chunk: int, before: int) -> None:
        self.factor, self.chunk, self.before = factor, chunk // factor, before // factor
        stack = module if factor == 1 else module.encoder
        self.layers = [LiveZipformerLayer(layer, self.chunk, self.before) for layer in stack.layers]
        self.reach = self.layers[0].convolutions[0].reach
        self.width = len(self.layers[0].middle)
        self.channels = [sum(layer.sizes) for layer in self.layers]
        self.mean = None if factor == 1 else module.downsample.bias.softmax(0)[:, None]
        self.combine = None if factor == 1 else module.out_combiner.bypass_scale

    def step(self, x: Tensor, cache: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """x (B f n, D) -> (B f n, D). cache (B, before + n, all channels), inputs (B, R + n, 2 D a layer)."""
        source, batch = x, len(cache)
        if self.mean is not None:
            x = (x.view(-1, self.factor, self.width) * self.mean).sum(1)
        convolved = inputs.split(self.width, 2)
        for number, (layer, own) in enumerate(zip(self.layers, cache.split(self.channels, 2), strict=True)):
            x = layer.step(x, own, convolved[2 * number : 2 * number + 2], mask)
        if self.combine is None:
            return x
        y = x[:, None].expand(-1, self.factor, -1).reshape(batch * self.chunk * self.factor, self.width)
        return torch.lerp(source, y, self.combine)

    def mask(self, frames: Sequence[int], batch: int) -> Tensor | None:
        """(B', 1, 1, before + n), added to the scores: keys from before the start of rows that have read so
        many 20 ms frames are hidden."""
        read = [number // self.factor for number in frames]
        if min(read) >= self.before:
            return None
        hidden = torch.zeros(batch, 1, 1, self.before + self.chunk)
        for place, number in enumerate(read):
            hidden[place, ..., : max(0, self.before - number)] = HIDDEN
        return hidden


class LiveZipformer:
    """A Zipformer's weights for streams of one chunk size and context."""

    def __init__(self, encoder: Any, chunk: int, before: int) -> None:
        cfg, embed = encoder.cfg, encoder.encoder_embed
        self.encoder, self.chunk, self.before = encoder, chunk, before
        self.stacks = [
            LiveStack(module, factor, chunk, before)
            for module, factor in zip(encoder.encoders, cfg.downsampling, strict=True)
        ]
        weight = embed.out.weight.view(-1, embed.channels, embed.bins).transpose(1, 2).flatten(1)
        self.embed_out = PackedLinear(weight, embed.out.bias)
        self.output_mean = encoder.downsample_output.bias.softmax(0)[:, None]
        self._rooms: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def step(self, states: "Sequence[LiveZipformerState]", feats: Sequence[Tensor]) -> Tensor:
        """feats (1, 2 C + 13, F) of each stream -> (B', C / f, D), B' >= B."""

        batch, count = padded_batch(len(states)), len(states)
        for state in states:
            state.make_room()
        x, outputs = self._front(states, feats, batch), []
        for number, stack in enumerate(self.stacks):
            x = with_channels(x, stack.width)
            if not x.is_contiguous():
                x = x.contiguous()
            if batch == 1:
                (cache,), (inputs,) = ([s.window(k, number)[None] for s in states] for k in (0, 1))
            else:
                cache, inputs = (self._gathered(states, kind, number, batch) for kind in (0, 1))
            x = stack.step(x, cache, inputs, stack.mask([s.frames for s in states], batch))
            if batch > 1:
                for kind, own in ((0, cache), (1, inputs)):
                    for place, state in enumerate(states):
                        state.window(kind, number)[-stack.chunk :] = own[place, -stack.chunk :]
                    base = own._base
                    self._rooms[kind, number] = own.flatten() if base is None else base
            outputs.append(x)
        for state in states:
            state.move_on()
        x = self.encoder._full_width(outputs)
        x = (x.view(-1, len(self.output_mean), x.shape[-1]) * self.output_mean).sum(1)
        return x.view(batch, -1, x.shape[-1])[:count]

    def _gathered(self, states: "Sequence[LiveZipformerState]", kind: int, number: int, batch: int) -> Tensor:
        """The windows of a stack's caches, (B', .., channels)."""
        shape = states[0].window(kind, number).shape
        size = batch * shape[0] * shape[1]
        room = self._rooms.pop((kind, number), None)  # another thread's step takes memory of its own
        if room is None or len(room) < size:
            room = torch.empty(size)
        gathered = room[:size].view(batch, *shape)
        for place, state in enumerate(states):
            gathered[place] = state.window(kind, number)
        gathered[len(states) :] = 0.0
        return gathered

    def _front(self, states: "Sequence[LiveZipformerState]", feats: Sequence[Tensor], batch: int) -> Tensor:
        """(B' C, D): the frames of the chunk as they enter the first stack."""
        embed, parts = self.encoder.encoder_embed, []
        for first in range(0, len(states), FRONT_ROWS):
            rows = slice(first, first + FRONT_ROWS)
            past = torch.stack([state.front for state in states[rows]])
            y, carried = embed._convolve(torch.cat([*feats[rows]]), None, past)
            parts.append(y.flatten(2).flatten(0, 1))
            for state, own in zip(states[rows], carried, strict=True):
                state.front = own
        missing = batch - len(states)
        if missing:
            parts.append(parts[0].new_zeros(missing * self.chunk, parts[0].shape[1]))
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        normed: Tensor = embed.out_norm(self.embed_out(x))
        return normed


class LiveZipformerState:
    """The caches of one stream. front (3, F', C). caches: for each stack those of attention and those of the
    convolutions, of `context + (1 + STEPS) n` frames each; the context ends `used` chunks behind its first
    place."""

    def __init__(self, weights: LiveZipformer) -> None:
        self.weights, self.used, self.frames = weights, 0, 0
        self.front = weights.encoder.encoder_embed.initial_left(1)[0]
        room = 1 + STEPS
        self.caches = [
            (torch.zeros(s.before + room * s.chunk, sum(s.channels)),
             torch.zeros(s.reach + room * s.chunk, 2 * s.width * len(s.layers)))
            for s in weights.stacks
        ]  # fmt: skip

    def window(self, kind: int, number: int) -> Tensor:
        """Context and n frames behind it, (before + n, C) for kind 0, (R + n, C) for kind 1."""
        stack = self.weights.stacks[number]
        begin = self.used * stack.chunk
        return self.caches[number][kind][
            begin : begin + (stack.reach if kind else stack.before) + stack.chunk
        ]

    def make_room(self) -> None:
        """Room for a chunk behind the context."""
        if self.used <= STEPS:
            return
        for stack, caches in zip(self.weights.stacks, self.caches, strict=True):
            for cache, size in zip(caches, (stack.before, stack.reach), strict=True):
                cache[:size] = cache[len(cache) - size :].clone()
        self.used = 0

    def move_on(self) -> None:
        """A chunk was computed."""
        self.used, self.frames = self.used + 1, self.frames + self.weights.chunk


def live_weights(encoder: Any, chunk: int, before: int) -> LiveZipformer | None:
    """The weights for streams of one row; None where the modules have to compute them: elsewhere than on a
    CPU, in other dtypes, with gradients, with fast weights or with adapters."""

    weight = encoder.downsample_output.bias
    elsewhere = not weight.is_cpu or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if torch.is_grad_enabled() or elsewhere:
        return None
    layers = [layer for module in encoder.encoders for layer in getattr(module, "encoder", module).layers]
    plain = all(type(layer) is ZipformerLayer for layer in layers) and all(
        type(m) in (nn.Linear, nn.Conv1d)
        or not isinstance(m, (nn.Linear, nn.Conv1d))
        and not m._forward_hooks
        for m in encoder.modules()
    )
    if not plain or encoder.cfg.fast_weights is not None:
        return None
    tensors = [*encoder.parameters()]
    key = (
        chunk,
        before,
        sum(t._version for t in tensors if not t.is_inference()),
        [t.data_ptr() for t in tensors],
    )
    if encoder.live is None or encoder.live[0] != key:
        encoder.live = key, LiveZipformer(encoder, chunk, before)
    weights: LiveZipformer = encoder.live[1]
    return weights
