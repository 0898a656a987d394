"""Streams of a FastConformer on a CPU with little beside the products: what a voice server runs.

`ConformerStream` computes the same; it takes any device and any layer. A step of it has about a hundred small
operations a layer, and with few streams these take longer than the products. Here weights lie ready for the
products (`PackedLinear`), those of queries, keys and values are one, the masks and the positions are made
once, and a stream has caches of its own that new frames are written into.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.base import Encoded, EncoderStream
from maya.encoders.conformer.attention import HIDDEN
from maya.encoders.conformer.dropout import Dropout
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.kernels.onednn import QuickLinear
from maya.kernels.packed import PackedLinear, padded_batch

SLACK = 32  # frames of a cache beyond the context: it moves its newest frames to its start when it is full
FRONT_ROWS = 4  # at once through the convolutions in front


class LiveLayer:
    """The weights of a `FastConformerLayer`, as a step reads them."""

    def __init__(self, layer: Any, positions: Tensor) -> None:
        """positions (2R + 1, D): of all offsets that a step can ask for."""
        attention, conv = layer.self_attn, layer.conv
        self.heads, self.head_size = attention.heads, attention.head_size
        scale = self.head_size**-0.5
        self.norms = [
            (norm.weight, norm.bias, norm.eps) for norm in (
                layer.norm_feed_forward1, layer.norm_self_att, layer.norm_conv, layer.norm_feed_forward2,
                layer.norm_out)
        ]  # fmt: skip
        self.feed_forwards = [
            (PackedLinear.of(part.linear1), PackedLinear.of(part.linear2, scale=0.5))
            for part in (layer.feed_forward1, layer.feed_forward2)
        ]
        # The queries come twice: for keys with the bias u, for positions with v and scaled.
        q, k, v = attention.linear_q, attention.linear_k, attention.linear_v
        self.qkv = PackedLinear.of(q, q, k, v)
        width = len(q.weight)
        bias = q.weight.new_zeros(4 * width) if self.qkv.bias is None else self.qkv.bias
        bias[:width] += attention.pos_bias_u.flatten()
        bias[width : 2 * width] = (bias[width : 2 * width] + attention.pos_bias_v.flatten()) * scale
        self.qkv.weight[width : 2 * width] *= scale
        self.qkv.bias = bias
        # (H, K, 2R + 1)
        self.positions = attention.split_heads(attention.linear_pos, positions).permute(1, 2, 0).contiguous()
        self.out = PackedLinear.of(attention.linear_out)
        self.gate, self.after = PackedLinear.of(conv.pointwise_conv1), PackedLinear.of(conv.pointwise_conv2)
        self.taps = conv.depthwise_conv.weight[:, 0].t().contiguous()  # (k, D)
        self.taps_bias = conv.depthwise_conv.bias
        norm = conv.batch_norm
        self.conv_norm = None if isinstance(norm, MaskedBatchNorm) else (norm.weight, norm.bias, norm.eps)
        if isinstance(norm, MaskedBatchNorm):
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            zero = 0.0 if self.taps_bias is None else self.taps_bias
            self.taps = self.taps * factor
            self.taps_bias = norm.bias + (zero - norm.running_mean) * factor

    def step(self, x: Tensor, keys: Tensor, convolved: Tensor, first: int, mask: Tensor | None) -> Tensor:
        """x (B n, D) -> (B n, D). keys (B, m, 2 D), convolved (B, k - 1 + n, D): of earlier frames; the last
        n are written. first: column of `positions` of the last query's first key. mask: added to scores."""
        norms, width = self.norms, x.shape[1]
        batch, n = keys.shape[0], convolved.shape[1] - len(self.taps) + 1
        inner, outer = self.feed_forwards[0]
        x = outer.added_to(x, inner(_normed(x, norms[0]), "swish"))
        y = self._attend(self.qkv(_normed(x, norms[1])), keys, first, mask)
        x = self.out.added_to(x, y)
        y = F.glu(self.gate(_normed(x, norms[2])))
        convolved[:, -n:] = y.view(batch, n, width)
        y = self._convolve(convolved, n)
        if self.conv_norm is not None:
            y = _normed(y, self.conv_norm)
        x = self.after.added_to(x, F.silu(y, inplace=True))
        inner, outer = self.feed_forwards[1]
        x = outer.added_to(x, inner(_normed(x, norms[3]), "swish"))
        return _normed(x, norms[4])

    def _attend(self, projected: Tensor, keys: Tensor, first: int, mask: Tensor | None) -> Tensor:
        """projected (B n, 4 D): queries twice, keys and values -> (B n, D)."""
        batch, m, width = keys.shape[0], keys.shape[1], keys.shape[2] // 2
        n, heads, size = len(projected) // batch, self.heads, self.head_size
        keys[:, m - n :] = projected[:, 2 * width :].view(batch, n, 2 * width)
        by_position = projected[:, width : 2 * width].view(-1, heads, size).transpose(0, 1)
        offsets = m + n - 1
        scores = torch.bmm(by_position, self.positions[:, :, first : first + offsets])  # (H, B n, offsets)
        # Query i's key j is at offset n - 1 - i + j: a window of the memory.
        strides = (n * offsets, batch * n * offsets, offsets - 1, 1)
        bias = scores.as_strided((batch, heads, n, m), strides, n - 1)
        if mask is not None:
            bias = bias + mask
        q = projected[:, :width].view(batch, n, heads, size).transpose(1, 2)
        k = keys[:, :, :width].view(batch, m, heads, size).transpose(1, 2)
        v = keys[:, :, width:].view(batch, m, heads, size).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return y.transpose(1, 2).reshape(batch * n, width)

    def _convolve(self, x: Tensor, n: int) -> Tensor:
        """(B, k - 1 + n, D) -> (B n, D)."""
        batch, width = x.shape[0], x.shape[2]
        windows = x.as_strided((batch, n, len(self.taps), width), (x.stride(0), width, width, 1))
        y = (windows * self.taps).sum(2).view(batch * n, width)
        return y if self.taps_bias is None else y.add_(self.taps_bias)


def _normed(x: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
    return torch.layer_norm(x, x.shape[-1:], norm[0], norm[1], norm[2])


class LiveWeights:
    """A FastConformer's weights for `LiveConformerStream`, and what depends on the context alone."""

    def __init__(self, encoder: Any, span: Any) -> None:
        self.encoder, self.span, self.before = encoder, span, span.left_frames
        self.chunk = span.chunk or 1
        self.most = max(1, SLACK // self.chunk) * self.chunk  # frames of a step
        self.reach = self.before + self.most - 1
        weight = encoder.pre_encode.out.weight
        positions = encoder.positions(self.reach, weight)
        self.layers = [LiveLayer(layer, positions) for layer in encoder.layers]
        self.kernel, self.width = encoder.cfg.conv_kernel, encoder.cfg.d_model
        self.capacity = (self.before + self.most + SLACK, self.kernel - 1 + self.most + SLACK)
        self.past = encoder.pre_encode.overlap * encoder.cfg.subsampling_factor
        self._seen: dict[int, Tensor | None] = {}
        self._memories: list[Tensor] = []  # that no step uses now

    def seen(self, n: int) -> Tensor | None:
        """(n, before + n) added to the scores of n frames, or None where each sees all."""
        if n not in self._seen:
            places = torch.arange(-self.before, n)
            seen = self.span.visible(places[self.before :], places)
            none = bool(seen.all())
            self._seen[n] = None if none else torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        return self._seen[n]

    def step(self, streams: "Sequence[LiveConformerStream]", counts: list[int], n: int) -> Tensor:
        """The next `counts` <= n frames of each stream -> (B', n, D), B' >= B."""
        batch, layers = padded_batch(len(streams)), len(self.layers)
        x = self._front(streams, batch, n)
        m, reach = self.before + n, self.kernel - 1
        if batch == 1:
            for stream in streams:
                stream.make_room(n)
                keys = stream.keys[:, stream.key_end - self.before : stream.key_end + n, None].transpose(1, 2)
                inputs = stream.inputs[:, stream.input_end - reach : stream.input_end + n, None].transpose(
                    1, 2
                )
        else:
            memory = self._memory(layers * batch * (2 * m + reach + n) * self.width)
            size = layers * batch * m * 2 * self.width
            keys = memory[:size].view(layers, batch, m, 2 * self.width)
            inputs = memory[size:][: layers * batch * (reach + n) * self.width]
            inputs = inputs.view(layers, batch, reach + n, self.width)
            for place, stream in enumerate(streams):
                stream.make_room(n)
                keys[:, place, : self.before] = stream.keys[:, stream.key_end - self.before : stream.key_end]
                inputs[:, place, :reach] = stream.inputs[:, stream.input_end - reach : stream.input_end]
            keys[:, len(streams) :, : self.before] = 0.0
            inputs[:, len(streams) :, :reach] = 0.0
        mask, first = self._mask(streams, counts, batch, n), self.reach - (self.before + n - 1)
        for layer, own_keys, own_inputs in zip(self.layers, keys.unbind(0), inputs.unbind(0), strict=True):
            x = layer.step(x, own_keys, own_inputs, first, mask)
        for place, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            if batch > 1:
                end = stream.key_end + count
                stream.keys[:, stream.key_end : end] = keys[:, place, self.before : self.before + count]
                end = stream.input_end + count
                stream.inputs[:, stream.input_end : end] = inputs[:, place, reach : reach + count]
            stream.move_on(count)
        if batch > 1:
            self._memories.append(memory)
        y: Tensor = self.encoder.last(x.view(batch, n, self.width))
        return y

    def _memory(self, size: int) -> Tensor:
        """So many numbers, which a step writes before it reads them and then gives back: fresh pages take
        longer than writing them. Another thread's step takes memory of its own."""
        memory = self._memories.pop() if self._memories else torch.empty(0)
        return memory if len(memory) >= size else torch.empty(size)

    def _mask(
        self, streams: "Sequence[LiveConformerStream]", counts: list[int], batch: int, n: int
    ) -> Tensor | None:
        """What to add to scores (B', 1, 1 or n, m): keys before a start and beyond `counts` are hidden."""
        seen = self.seen(n)
        if all(s.frames >= self.before and count == n for s, count in zip(streams, counts, strict=True)):
            return seen
        hidden = torch.zeros(batch, 1, 1, self.before + n)
        for place, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            hidden[place, ..., : max(0, self.before - stream.frames)] = HIDDEN
            hidden[place, ..., self.before + count :] = HIDDEN
        return hidden if seen is None else hidden + seen

    def _front(self, streams: "Sequence[LiveConformerStream]", batch: int, n: int) -> Tensor:
        """(B' n, D): the next n frames as they enter the layers."""
        front, factor = self.encoder.pre_encode, self.encoder.cfg.subsampling_factor
        need = self.past + factor * (n - 1) + 1  # the last frame reads no further
        have = [min(len(stream.features), need) for stream in streams]
        starts = [max(0, self.past - factor * stream.frames) for stream in streams]
        if batch == 1:
            (features,) = (stream.features[None, :need] for stream in streams)
            features = F.pad(features, (0, 0, 0, need - features.shape[1]))
        else:
            features = streams[0].features.new_zeros(batch, need, self.encoder.cfg.feat_in)
            for place, stream in enumerate(streams):
                features[place, : have[place]] = stream.features[:need]
        if min(have) == need and not any(starts):
            # Blocks whose widest tensor stays in the cache, and is no fresh page.
            y = torch.cat([front.convolve(part, None) for part in features.split(FRONT_ROWS)])
        else:
            rest = batch - len(streams)
            y = front.convolve(
                features, torch.tensor(have + [need] * rest), torch.tensor(starts + [0] * rest)
            )
        y = front.out(y[:, front.overlap : front.overlap + n].reshape(batch * n, -1))
        return self.encoder.scaled(y)


class LiveConformerStream(EncoderStream):
    """One stream. keys (L, before + .., 2 D), inputs (L, k - 1 + .., D): keys and values, and inputs of the
    convolution, of each layer; those of the newest frame are before `key_end` and `input_end`."""

    def __init__(self, weights: LiveWeights) -> None:
        self.weights = weights
        self._begin()

    def _begin(self) -> None:
        own, cfg = self.weights, self.weights.encoder.cfg
        self.frames, self.features = 0, torch.zeros(own.past, cfg.feat_in)
        self.keys = torch.zeros(cfg.n_layers, own.capacity[0], 2 * cfg.d_model)
        self.inputs = torch.zeros(cfg.n_layers, own.capacity[1], cfg.d_model)
        self.key_end, self.input_end = own.before, own.kernel - 1

    def describe(self) -> str:
        numbers = self.keys.numel() + self.inputs.numel()
        return f"state of one stream: {numbers * 4e-6:.3f} MB"

    def make_room(self, n: int) -> None:
        """Room for n frames behind the newest."""
        before, reach = self.weights.before, self.weights.kernel - 1
        if self.key_end + n > self.keys.shape[1]:
            self.keys[:, :before] = self.keys[:, self.key_end - before : self.key_end].clone()
            self.key_end = before
        if self.input_end + n > self.inputs.shape[1]:
            self.inputs[:, :reach] = self.inputs[:, self.input_end - reach : self.input_end].clone()
            self.input_end = reach

    def move_on(self, count: int) -> None:
        """`count` frames were computed, whose keys are written."""
        self.frames += count
        self.key_end, self.input_end = self.key_end + count, self.input_end + count
        self.features = self.features[count * self.weights.encoder.cfg.subsampling_factor :]

    def completes(self, features: int) -> bool:
        own, factor = self.weights, self.weights.encoder.cfg.subsampling_factor
        return len(self.features) + features - own.past > factor * (own.chunk - 1)

    def due(self, final: bool) -> int:
        """Frames that can be computed, at most those of a step; with `final` those that remain."""
        own, encoder = self.weights, self.weights.encoder
        have = len(self.features)
        if final:
            empty = self.frames == 0 and have == own.past
            rest = encoder.cfg.subsampled(have) - encoder.pre_encode.overlap
            return 0 if empty else min(max(0, int(rest)), own.most)
        # Frame s reads features up to factor * s: the first of those that wait already completes one.
        ready = -(-max(0, have - own.past) // encoder.cfg.subsampling_factor)
        return min(ready // own.chunk * own.chunk, own.most)

    def push(self, feats: Tensor, final: bool = False, *, same_speaker: bool = False) -> Encoded:
        (frames,) = self.push_each([self], [feats], [final])
        return Encoded(frames, torch.tensor([frames.shape[1]]))

    @staticmethod
    @torch.no_grad()
    def push_each(
        streams: Sequence[Any], feats: Sequence[Tensor], finals: Sequence[bool], *, same_speaker: bool = False
    ) -> list[Tensor]:
        own = streams[0].weights
        parts: list[list[Tensor]] = [[] for _ in streams]
        for stream, new in zip(streams, feats, strict=True):
            stream.features = torch.cat([stream.features, new[0]])
        while True:
            counts = [stream.due(final) for stream, final in zip(streams, finals, strict=True)]
            rows = [row for row, count in enumerate(counts) if count]
            if not rows:
                break
            least = -(-min(counts[row] for row in rows) // own.chunk) * own.chunk
            taken = [min(counts[row], least) for row in rows]
            y = own.step([streams[row] for row in rows], taken, least)
            for place, (row, count) in enumerate(zip(rows, taken, strict=True)):
                parts[row].append(y[place, :count])
        for stream, final in zip(streams, finals, strict=True):
            if final:
                stream._begin()
        nothing = [torch.zeros(0, own.width)]
        return [(own_parts[0] if len(own_parts) == 1 else torch.cat(own_parts or nothing))[None]
                for own_parts in parts]  # fmt: skip


def live_stream(encoder: Any, state: Any) -> LiveConformerStream | None:
    """A stream from the encoder's initial state of one row; None where `ConformerStream` has to take it:
    elsewhere than on a CPU, in other dtypes, with gradients, with layers of other kinds or with adapters."""
    span, weight = state.span, encoder.pre_encode.out.weight
    plain = all(
        type(module) in (nn.LayerNorm, QuickLinear, nn.Conv1d, MaskedBatchNorm, Dropout)
        and not module._forward_hooks and not module._forward_pre_hooks
        for layer in encoder.layers for module in layer.modules() if not [*module.children()]
    )  # fmt: skip
    if len(state.frames) != 1 or span.left_frames is None or encoder.training or torch.is_grad_enabled():
        return None
    if not plain or not weight.is_cpu or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    tensors = [*encoder.parameters(), *encoder.buffers()]
    key = span, sum(t._version for t in tensors if not t.is_inference()), [t.data_ptr() for t in tensors]
    if encoder.live is None or encoder.live[0] != key:
        encoder.live = key, LiveWeights(encoder, span)
    return LiveConformerStream(encoder.live[1])
