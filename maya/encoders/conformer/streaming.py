"""Cache-aware streaming: a FastConformer fed piece by piece gives what it would have given for the whole.

Needs a model whose frames wait for no more than their chunk's end: causal subsampling, causal convolutions,
and attention in chunks (or a band without look-ahead). NeMo's cache-aware streaming models are of that kind
(Noroozi et al. 2024, arXiv:2312.17279). A row of the batch is a stream of its own: it may start, pause and
end at any call, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.encoders.conformer.attention import Frames, Span, span_of
from maya.encoders.conformer.subsampling import DepthwiseStridedSubsampling
from maya.errors import MayaError

if TYPE_CHECKING:
    from maya.encoders.conformer.fastconformer import FastConformer


class Streamable(Protocol):
    """What `stream` asks of an encoder."""

    cfg: Any
    training: bool
    pre_encode: DepthwiseStridedSubsampling

    def subsampled_lens(self, lens: Tensor) -> Tensor:
        """Encoder frames for `lens` (...,) int64 feature frames."""

    def scaled(self, x: Tensor) -> Tensor:
        """Subsampled frames as they enter the layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """What B streams remember between two pieces; of a fixed size unless the left context is unlimited.

    span: what a frame sees. past: features that a frame reads before its own. frames (B,) int64: encoder
    frames given out so far. features (B, P, F) and feature_lens (B,): the `past` features before the next
    frame's own (zero at a start), then those that wait. attention (L, B, left, D): inputs of each layer's
    attention, the newest last, of which attention_lens (B,) are there. convolution (L, B, D, kernel - 1):
    inputs of each layer's depthwise convolution.
    """

    span: Span
    past: int
    frames: Tensor
    features: Tensor
    feature_lens: Tensor
    attention: Tensor
    attention_lens: Tensor
    convolution: Tensor

    @property
    def step(self) -> int:
        """Frames are given out in multiples of this."""
        return self.span.chunk or 1

    def reset(self, rows: Tensor) -> StreamState:
        """The state with `rows` (B,) bool at a start and the others where they are."""
        return replace(
            self,
            frames=self.frames.masked_fill(rows, 0),
            features=self.features.masked_fill(rows[:, None, None], 0.0),
            feature_lens=self.feature_lens.masked_fill(rows, self.past),
            attention=self.attention.masked_fill(rows[:, None, None], 0.0),
            attention_lens=self.attention_lens.masked_fill(rows, 0),
            convolution=self.convolution.masked_fill(rows[:, None, None], 0.0),
        )


State = TypeVar("State", bound=StreamState)


def initial_state(encoder: FastConformer, batch: int, context: tuple[int, int] | None = None) -> StreamState:
    """`batch` streams before their first piece, with the look-ahead of `context`, else the configured one.

    Raises MayaError for a model that cannot stream, naming what stands in the way.
    """
    cfg = encoder.cfg
    left, right = context or encoder.context or cfg.att_context_size[0]
    why = None
    if not cfg.causal_downsampling or cfg.conv_context != "causal":
        why = "needs encoder.causal_downsampling=true and encoder.conv_context=causal"
    elif right == -1 or (right > 0 and cfg.att_context_style != "chunked_limited"):
        why = f"waits for frames to come (att_context_size {left, right}, style {cfg.att_context_style})"
    elif cfg.global_tokens:
        why = "has global tokens, which see the whole utterance"
    elif cfg.fast_weights is not None:
        why = "has fast weights in the place of attention, whose stream is that of the LaCT encoder"
    if why is not None:
        raise MayaError(
            f"this encoder cannot stream: it {why}; train it so from the start, or transcribe whole files"
        )
    span = span_of((left, right), cfg.att_context_style)
    weight = encoder.pre_encode.out.weight
    past = encoder.pre_encode.overlap * cfg.subsampling_factor
    zeros = weight.new_zeros(batch, dtype=torch.long)
    return StreamState(
        span=span,
        past=past,
        frames=zeros,
        features=weight.new_zeros(batch, past, cfg.feat_in),
        feature_lens=zeros + past,
        attention=weight.new_zeros(cfg.n_layers, batch, max(0, left), cfg.d_model),
        attention_lens=zeros,
        convolution=weight.new_zeros(cfg.n_layers, batch, cfg.d_model, cfg.conv_kernel - 1),
    )


def stream(
    encoder: Streamable,
    chunk: Tensor,
    chunk_lens: Tensor,
    state: State,
    final: Tensor | None = None,
    *,
    layers: Callable[..., Any] | None = None,
    restart: Callable[[State, Tensor], State] | None = None,
) -> tuple[Tensor, Tensor, State]:
    """See `FastConformer.stream`. `layers` and `restart` are those of another encoder: new frames (B, n, D),
    their numbers (B,) and the state -> encodings and the new state; the state with rows (B,) at a start.
    """
    if encoder.training:
        raise MayaError("streaming is for evaluation: call model.eval() first")
    size = state.step
    through: Callable[..., Any] = layers or _through_layers
    begin_anew: Callable[..., Any] = restart or type(state).reset
    features, have = _append(state, chunk, chunk_lens)
    # Frame s reads features up to factor * s: the first of those that wait already completes one.
    ready = (have - state.past + encoder.cfg.subsampling_factor - 1) // encoder.cfg.subsampling_factor
    counts = ready.clamp(min=0) // size * size
    if final is not None:
        rest = encoder.subsampled_lens(have) - encoder.pre_encode.overlap
        empty = (state.frames == 0) & (have == state.past)
        counts = torch.where(final, rest.clamp(min=0).masked_fill(empty, 0), counts)
    new = int(counts.max())
    if new == 0:
        enc = features.new_zeros(len(features), 0, encoder.cfg.d_model)
        state = replace(state, features=features, feature_lens=have)
    else:
        x = _subsample(encoder, features, have, state, new)
        enc, state = through(encoder, x, counts, state)
        state = _consume(state, features, have, counts * encoder.cfg.subsampling_factor)
    if final is not None:
        state = begin_anew(state, final)
    return enc, counts, state


def _append(state: StreamState, chunk: Tensor, chunk_lens: Tensor) -> tuple[Tensor, Tensor]:
    """The features that wait with those of the piece behind them, (B, P, F), and their numbers (B,)."""
    have = state.feature_lens + chunk_lens
    width = state.features.shape[1]
    both = torch.cat([state.features, chunk.to(state.features.dtype)], dim=1)
    place = torch.arange(int(have.max()), device=chunk.device)
    # A row's piece follows what that row has, which can be less than the widest row has.
    source = torch.where(
        place < state.feature_lens[:, None], place, place - state.feature_lens[:, None] + width
    )
    return _take(both, source), have


def _subsample(encoder: Streamable, features: Tensor, have: Tensor, state: StreamState, new: int) -> Tensor:
    """The next `new` frames (B, new, D) as they enter the layers; what a row lacks is finite and unused."""
    front, factor = encoder.pre_encode, encoder.cfg.subsampling_factor
    # Features from before the start count as padding, on each level of the subsampling.
    starts = (state.past - factor * state.frames).clamp(min=0)
    need = state.past + factor * new
    features = F.pad(features, (0, 0, 0, max(0, need - features.shape[1])))[:, :need]
    y = front.convolve(features, have.clamp(max=need), starts)
    return encoder.scaled(front.out(y[:, front.overlap : front.overlap + new]))


def _through_layers(
    encoder: FastConformer, x: Tensor, counts: Tensor, state: StreamState
) -> tuple[Tensor, StreamState]:
    """The layers over new frames x (B, n, D), of which `counts` (B,) are there."""
    left, n = state.attention.shape[2], x.shape[1]
    valid = torch.arange(n, device=x.device) < counts[:, None]
    cached = torch.arange(left, device=x.device) >= left - state.attention_lens[:, None]
    known = torch.cat([cached, valid], dim=1)
    frames = Frames(valid=valid, positions=encoder.positions(left + n - 1, x), span=state.span)
    keep = left if state.span.left is not None else left + n
    attention, convolution = [], []
    for layer, att_cache, conv_cache in zip(encoder.layers, state.attention, state.convolution, strict=True):
        x, attended, convolved = _layer(layer, x, att_cache, conv_cache, known, frames)
        attention.append(newest(attended, left + counts, keep))
        reach = conv_cache.shape[2]
        convolution.append(newest(convolved, reach + counts, reach).transpose(1, 2))
    state = replace(
        state,
        frames=state.frames + counts,
        attention=torch.stack(attention),
        attention_lens=(state.attention_lens + counts).clamp(max=keep),
        convolution=torch.stack(convolution),
    )
    return x * valid[..., None].to(x.dtype), state


def _layer(
    layer: Any, x: Tensor, att_cache: Tensor, conv_cache: Tensor, known: Tensor, frames: Frames
) -> tuple[Tensor, Tensor, Tensor]:
    """`ConformerLayer.forward` of `layer` for one piece; also what the next caches are cut from."""
    x = torch.add(x, layer.feed_forward1(layer.norm_feed_forward1(x)), alpha=0.5)
    attended = torch.cat([att_cache, layer.norm_self_att(x)], dim=1)
    x = x + layer.self_attn.stream(attended, known, frames)
    y, convolved = layer.conv.stream(layer.norm_conv(x), conv_cache, frames.valid)
    x = x + y
    x = torch.add(x, layer.feed_forward2(layer.norm_feed_forward2(x)), alpha=0.5)
    return layer.norm_out(x), attended, convolved


def _consume(state: State, features: Tensor, have: Tensor, used: Tensor) -> State:
    """Drop the `used` (B,) first features; a frame more than that stays as the past of those to come."""
    left = (have - used).clamp(min=0)
    place = torch.arange(max(state.past, int(left.max())), device=features.device)
    return replace(state, features=_take(features, place + used[:, None]), feature_lens=left)


def newest(x: Tensor, ends: Tensor, size: int) -> Tensor:
    """(B, n, D) -> (B, size, D), the rows' frames before `ends` (B,)."""
    place = torch.arange(-size, 0, device=x.device)
    return _take(x, ends[:, None] + place)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """x (B, n, D) at `places` (B, m) of each row, those out of range taking the nearest: (B, m, D)."""
    index = places.clamp(0, x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2])
    return x.gather(1, index)
