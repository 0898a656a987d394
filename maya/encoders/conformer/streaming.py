"""Cache-aware streaming: an encoder of conformer layers gives the same in pieces as for the whole.

The frames of such an encoder wait for no more than the end of their chunk: causal subsampling, causal
convolutions, and attention in chunks (or a band without look-ahead). NeMo's cache-aware streaming models are
of that kind (Noroozi et al. 2024, arXiv:2312.17279). A row of the batch is a stream of its own: it may start,
pause and end at any call, whatever the others do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.encoders.base import Encoded, Encoder, EncoderStream
from maya.encoders.conformer.attention import AttentionSpan, Frames
from maya.encoders.conformer.live import live_stream
from maya.encoders.conformer.subsampling import DepthwiseStridedSubsampling
from maya.errors import MayaError
from maya.features.frames import frame_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """What B streams remember between two pieces; of a fixed size unless the left context is unlimited.

    span: the frames that a frame sees. past: features that a frame reads before its own. frames (B,) int64:
    encoder frames given out so far. features (B, P, F) and feature_lens (B,): the `past` features before the
    next frame's own (zero at a start), then those that wait. attention (L, B, left, M): what each layer's
    mixer keeps of a frame (attention its key and value, M = 2 D), the newest last, of which attention_lens
    (B,) exist. convolution (L, B, D, kernel - 1): inputs of each layer's depthwise convolution.
    """

    batch_dim: ClassVar[dict[str, int]] = {"attention": 1, "convolution": 1}  # 0 for the others
    learns: ClassVar[bool] = False  # whether something may pass from an utterance to the next

    span: AttentionSpan
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

    def tensors(self) -> dict[str, Tensor]:
        """All that a stream has to keep, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def bytes(self) -> dict[str, int]:
        """Bytes that one stream keeps, by kind; features that wait for their frame included."""
        batch = max(1, len(self.frames))
        return {name: t.numel() * t.element_size() // batch for name, t in self.tensors().items()}

    def describe(self) -> str:
        """One line on the size of the state of one stream, for people."""
        sizes = self.bytes()
        named = {"fast weights": sizes.get("fast", 0)} | {
            name: sizes[name] for name in ("attention", "convolution", "features")
        }
        parts = ", ".join(f"{name} {size / 1e6:.3f}" for name, size in named.items() if size)
        return f"state of one stream: {sum(sizes.values()) / 1e6:.3f} MB ({parts})"

    def reset(self, rows: Tensor) -> Self:
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

    def next_utterance(self, rows: Tensor, keep: Tensor | bool = False) -> Self:
        """The state with `rows` (B,) bool at the start of another utterance. `keep`: of those, rows that keep
        what the encoder has learnt; there is nothing here."""
        return self.reset(rows)

    def select(self, rows: Tensor) -> Self:
        """The states of `rows` (B',) int64."""
        tensors: dict[str, Any] = self.tensors()
        return replace(
            self, **{n: t.index_select(self.batch_dim.get(n, 0), rows) for n, t in tensors.items()}
        )

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        """One batch of several, which may have started at different times."""
        parts = [state.tensors() for state in states]
        widest = max(part["features"].shape[1] for part in parts)
        longest = max(part["attention"].shape[2] for part in parts)  # they differ if the left is unlimited
        for part in parts:
            part["features"] = F.pad(part["features"], (0, 0, 0, widest - part["features"].shape[1]))
            part["attention"] = F.pad(part["attention"], (0, 0, longest - part["attention"].shape[2], 0))
        joined: dict[str, Any] = {
            name: torch.cat([part[name] for part in parts], dim=cls.batch_dim.get(name, 0))
            for name in parts[0]
        }
        return replace(states[0], **joined)


class StreamingEncoder(Encoder):
    """The base of encoders that are `DepthwiseStridedSubsampling` and conformer layers.

    A subclass has `pre_encode` and `layers`, and says in `initial_state` whether and how it streams.
    """

    front = ("pre_encode",)
    pre_encode: DepthwiseStridedSubsampling
    layers: Any
    live: Any = None  # weights for streams on a CPU, see `live_stream`

    def initial_state(self, batch: int, *, context: tuple[int, int] | None = None) -> Any:
        """`batch` streams before their first piece. Raises MayaError for a model that cannot stream, naming
        what prevents it."""
        raise NotImplementedError

    def scaled(self, x: Tensor) -> Tensor:
        """Subsampled frames as they enter the layers."""
        return x

    def positions(self, reach: int, x: Tensor) -> Tensor:
        """The table of relative positions for `Frames`; none by default."""
        return x.new_empty(0)

    def last(self, x: Tensor) -> Tensor:
        """What follows the layers, frame by frame; nothing by default."""
        return x

    def memories(self, state: Any) -> list[Any]:
        """The memory of each layer's mixer for `ConformerLayer.stream_step`."""
        return [None] * len(self.layers)

    def remember(self, state: Any, memories: list[Any], counts: Tensor) -> Any:
        """The state with the memories as `counts` (B,) new frames have changed them."""
        return state

    def stream(
        self, batch: int, context: tuple[int, int] | None = None, *, padding_value: float = 0.0
    ) -> EncoderStream:
        stream = live_stream(self, self.initial_state(batch, context=context)) if batch == 1 else None
        return stream or ConformerStream(self, batch, context)

    def stream_step(
        self,
        chunk: Tensor,
        chunk_lens: Tensor,
        state: Any,
        *,
        final: Tensor | None = None,
        keep: Tensor | bool = False,
    ) -> tuple[Tensor, Tensor, Any]:
        """Encode the next pieces of B streams, in evaluation mode; together equal to `forward` of the whole.

        Args:
            chunk: (B, T, F) the next features of each stream, T >= 0 as it comes.
            chunk_lens: (B,) int64, how many of them exist; 0 for a stream that pauses.
            state: from `initial_state`, then from the call before.
            final: (B,) bool, streams that end with this piece. They give out all remaining frames, and are at
                a start afterwards, ready for another utterance.
            keep: (B,) bool or one for all: streams that end and whose next utterance is of the same speaker.
                It begins with what the encoder has learnt from this one.

        Returns:
            enc (B, S, D), zero at and beyond enc_lens (B,) int64; the new state. Frames come out in multiples
            of `state.step`.
        """
        if self.training:
            raise MayaError("streaming is for evaluation: call model.eval() first")
        factor, size = self.cfg.subsampling_factor, state.step
        features, have = _append(state, chunk, chunk_lens)
        # Frame s reads features up to factor * s: the first of those that wait already completes one.
        counts = ((have - state.past + factor - 1) // factor).clamp(min=0) // size * size
        if final is not None:
            rest = self.subsampled_lens(have) - self.pre_encode.overlap
            empty = (state.frames == 0) & (have == state.past)
            counts = torch.where(final, rest.clamp(min=0).masked_fill(empty, 0), counts)
        new = int(counts.max())
        if new == 0:
            enc = features.new_zeros(len(features), 0, self.cfg.d_model)
            state = replace(state, features=features, feature_lens=have)
        else:
            enc, state = self._through_layers(self._subsample(features, have, state, new), counts, state)
            state = _consume(state, features, have, counts * factor)
        return enc, counts, state if final is None else state.next_utterance(final, keep)

    def _subsample(self, features: Tensor, have: Tensor, state: StreamState, new: int) -> Tensor:
        """The next `new` frames (B, new, D) as they enter the layers; frames that a row lacks are finite."""
        front, factor = self.pre_encode, self.cfg.subsampling_factor
        # Features from before the start count as padding, on each level of the subsampling.
        starts = (state.past - factor * state.frames).clamp(min=0)
        need = state.past + factor * new
        features = F.pad(features, (0, 0, 0, max(0, need - features.shape[1])))[:, :need]
        y = front.convolve(features, have.clamp(max=need), starts)
        return self.scaled(front.out(y[:, front.overlap : front.overlap + new]))

    def _through_layers(self, x: Tensor, counts: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The layers over new frames x (B, n, D), of which `counts` (B,) exist."""
        before, n = state.attention.shape[2], x.shape[1]
        new = frame_mask(counts, n)
        cached = torch.arange(before, device=x.device) >= before - state.attention_lens[:, None]
        frames = Frames(
            valid=torch.cat([cached, new], dim=1),
            positions=self.positions(before + n - 1, x),
            span=state.span,
        )
        keep = before if state.span.left_frames is not None else before + n
        memories, attention, convolution = self.memories(state), [], []
        full = bool((counts == n).all())  # rows are in step: their newest frames are the last ones
        caches = zip(self.layers, state.attention, state.convolution, memories, strict=True)
        for layer, mixer_cache, conv_cache, memory in caches:
            x, (mixed, convolved) = layer.stream_step(x, (mixer_cache, conv_cache), frames, memory)
            attention.append(_newest(mixed, None if full else before + counts, keep))
            reach = conv_cache.shape[2]
            newest = _newest(convolved, None if full else reach + counts, reach)
            convolution.append(newest.transpose(1, 2))
        state = replace(
            self.remember(state, memories, counts),
            frames=state.frames + counts,
            attention=torch.stack(attention),
            attention_lens=(state.attention_lens + counts).clamp(max=keep),
            convolution=torch.stack(convolution),
        )
        return self.last(x) * new[..., None].to(x.dtype), state


class ConformerStream(EncoderStream):
    """Streams that begin and end together; `state` is that of the encoder."""

    def __init__(self, encoder: StreamingEncoder, batch: int, context: tuple[int, int] | None) -> None:
        self.encoder = encoder
        self.state = encoder.initial_state(batch, context=context)
        self.same_speaker = self.state.learns

    def describe(self) -> str:
        return self.state.describe()

    def push(self, feats: Tensor, final: bool = False, *, same_speaker: bool = False) -> Encoded:
        lens = torch.full((len(feats),), feats.shape[1], device=feats.device)
        ends = torch.full((len(feats),), final, device=feats.device)
        enc, enc_lens, self.state = self.encoder.stream_step(
            feats, lens, self.state, final=ends, keep=same_speaker
        )
        return Encoded(enc, enc_lens)

    @staticmethod
    def push_each(
        streams: Sequence[Any], feats: Sequence[Tensor], finals: Sequence[bool], *, same_speaker: bool = False
    ) -> list[Tensor]:
        device = feats[0].device
        frames = [own.new_zeros(1, 0, streams[0].encoder.cfg.d_model) for own in feats]
        due = []
        for row, (stream, own, final) in enumerate(zip(streams, feats, finals, strict=True)):
            if final or stream._completes(own.shape[1]):
                due.append(row)
            else:
                lens = torch.tensor([own.shape[1]], device=device)
                features, have = _append(stream.state, own, lens)
                stream.state = replace(stream.state, features=features, feature_lens=have)
        if due:
            enc, enc_lens, state = streams[0].encoder.stream_step(
                pad_sequence([feats[row][0] for row in due], batch_first=True),
                torch.tensor([feats[row].shape[1] for row in due], device=device),
                streams[0].state.join([streams[row].state for row in due]),
                final=torch.tensor([finals[row] for row in due], device=device),
                keep=same_speaker,
            )
            for place, (row, size) in enumerate(zip(due, enc_lens.tolist(), strict=True)):
                streams[row].state = state.select(torch.tensor([place], device=device))
                frames[row] = enc[place : place + 1, :size]
        return frames

    def _completes(self, count: int) -> bool:
        """Whether so many features more complete a frame of the one row."""
        waiting = int(self.state.feature_lens[0]) + count - self.state.past
        return waiting > self.encoder.cfg.subsampling_factor * (self.state.step - 1)


def needs_to_stream(cfg: Any) -> str | None:
    """Why an encoder of conformer layers cannot stream, as far as its convolutions decide that."""
    if cfg.causal_downsampling and cfg.conv_context == "causal":
        return None
    return "needs encoder.causal_downsampling=true and encoder.conv_context=causal"


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


def _consume(state: Any, features: Tensor, have: Tensor, used: Tensor) -> Any:
    """Drop the first `used` (B,) features; the `past` ones before the next frame stay."""
    remaining = (have - used).clamp(min=0)
    place = torch.arange(max(state.past, int(remaining.max())), device=features.device)
    return replace(state, features=_take(features, place + used[:, None]), feature_lens=remaining)


def _newest(x: Tensor, ends: Tensor | None, size: int) -> Tensor:
    """(B, n, D) -> (B, size, D), the rows' frames before `ends` (B,); None: the last ones."""
    if ends is None:
        return x[:, x.shape[1] - size :]
    place = torch.arange(-size, 0, device=x.device)
    return _take(x, ends[:, None] + place)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """x (B, n, D) at `places` (B, m) of each row, those out of range taking the nearest: (B, m, D)."""
    index = places.clamp(0, x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2])
    return x.gather(1, index)
