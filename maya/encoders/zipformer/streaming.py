"""Zipformer streams: chunks of a fixed size, with a cache of earlier frames for each layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maya.encoders.base import Encoded, EncoderStream
from maya.encoders.zipformer.config import Chunking, check_chunking
from maya.encoders.zipformer.front import LOST_FRAMES, REACH
from maya.encoders.zipformer.layer import LayerCache
from maya.encoders.zipformer.live import LiveZipformerState, live_weights
from maya.errors import MayaError

AHEAD = LOST_FRAMES + 2 * REACH  # feature frames that Zipformer reads beyond a chunk


@dataclass(frozen=True, slots=True)
class ZipformerState:
    """The state between two chunks; every tensor has the batch first."""

    front: Tensor  # (B, 3, F', C) frames before ConvNeXt
    layers: tuple[LayerCache, ...]
    frames: Tensor  # (B,) int64: 20 ms frames read so far

    def reset(self, rows: Tensor) -> "ZipformerState":
        """The state with `rows` (B,) bool at a start and the others unchanged."""
        return self._each(lambda t: t.masked_fill(rows.view(-1, *[1] * (t.ndim - 1)), 0))

    def select(self, rows: Tensor) -> "ZipformerState":
        """The states of `rows` (B',) int64."""
        return self._each(lambda t: t[rows])

    def _each(self, function: Callable[[Tensor], Tensor]) -> "ZipformerState":
        layers = tuple(LayerCache(*map(function, cache.tensors())) for cache in self.layers)
        return ZipformerState(function(self.front), layers, function(self.frames))

    @staticmethod
    def join(states: Sequence["ZipformerState"]) -> "ZipformerState":
        """One batch from several, which may have started at different times."""
        caches = zip(*(s.layers for s in states), strict=True)
        layers = tuple(
            LayerCache(*map(torch.cat, zip(*(c.tensors() for c in cache), strict=True))) for cache in caches
        )
        front, frames = (torch.cat([getattr(s, name) for s in states]) for name in ("front", "frames"))
        return ZipformerState(front, layers, frames)


class ZipformerStream(EncoderStream):
    """Waits for a whole chunk and the 13 frames behind it, and pads the last chunk.

    The frames equal those of `Zipformer.forward` with the same `Chunking` for features that are padded to the
    end of the last chunk, as in icefall. Without that padding `forward` masks the frames beyond the end, and
    its last chunk differs a little.
    """

    def __init__(self, encoder: Any, batch: int, chunking: Chunking, *, padding_value: float = 0.0) -> None:
        if encoder.training:
            raise MayaError("streaming is for evaluation: call model.eval() first")
        if not encoder.cfg.causal:
            raise MayaError(
                "this encoder cannot stream: encoder.causal is false; train it so from the start, or "
                "transcribe whole files"
            )
        check_chunking(encoder.cfg, chunking)
        chunk, past = chunking.chunk, chunking.left_frames
        if chunk < 1 or past < 1:
            raise MayaError(
                f"streaming needs a chunk and a left context of 1 frame or more, not {chunk} and {past}"
            )
        self.encoder, self.padding_value = encoder, padding_value
        self.hop = 2 * chunk  # feature frames from one chunk to the next
        past = max(1, past // chunk) * chunk
        self.state: ZipformerState | LiveZipformerState = encoder.initial_state(batch, past)
        live = live_weights(encoder, chunk, past) if batch == 1 else None
        if live is not None:
            self.state = LiveZipformerState(live)
        self.waiting: Tensor | None = None  # (B, t, F) from the start of the next chunk
        self.read = self.given = 0  # feature frames received, encoder frames returned

    def completes(self, features: int) -> bool:
        have = 0 if self.waiting is None else self.waiting.shape[1]
        return have + features >= self.hop + AHEAD

    def push(self, feats: Tensor, final: bool = False, *, same_speaker: bool = False) -> Encoded:
        if isinstance(self.state, LiveZipformerState):
            (frames,) = self.push_each([self], [feats], [final])
            return Encoded(frames, torch.full((1,), frames.shape[1]))
        whole, size = self._append(feats, final)
        pieces = [feats.new_zeros(len(feats), 0, self.encoder.cfg.d_model)]
        for _ in range(whole):
            enc, self.state = self.encoder.stream_step(self._next_chunk(), self.state)
            pieces.append(enc)
        lens = torch.full((len(feats),), size, device=feats.device)
        return Encoded(torch.cat(pieces, 1)[:, :size], lens)

    @staticmethod
    def push_each(
        streams: Sequence[Any], feats: Sequence[Tensor], finals: Sequence[bool], *, same_speaker: bool = False
    ) -> list[Tensor]:
        due = [stream._append(own, final) for stream, own, final in zip(streams, feats, finals, strict=True)]
        encoder = streams[0].encoder
        pieces = [[own.new_zeros(1, 0, encoder.cfg.d_model)] for own in feats]
        for step in range(max(whole for whole, _ in due)):
            rows = [row for row, (whole, _) in enumerate(due) if whole > step]
            if isinstance(streams[0].state, LiveZipformerState):
                chunks = [streams[row]._next_chunk() for row in rows]
                enc = streams[0].state.weights.step([streams[row].state for row in rows], chunks)
                for place, row in enumerate(rows):
                    pieces[row].append(enc[place : place + 1])
                continue
            state = ZipformerState.join([streams[row].state for row in rows])
            enc, state = encoder.stream_step(torch.cat([streams[row]._next_chunk() for row in rows]), state)
            for place, row in enumerate(rows):
                streams[row].state = state.select(torch.tensor([place], device=enc.device))
                pieces[row].append(enc[place : place + 1])
        return [torch.cat(own, 1)[:, :size] for own, (_, size) in zip(pieces, due, strict=True)]

    def _append(self, feats: Tensor, final: bool) -> tuple[int, int]:
        """Take the next features: (chunks that are complete now, encoder frames of them that count)."""
        self.read += feats.shape[1]
        waiting = feats if self.waiting is None else torch.cat([self.waiting, feats], 1)
        whole = max(0, (waiting.shape[1] - AHEAD) // self.hop)
        each = self.hop // self.encoder.cfg.subsampling_factor
        size = whole * each
        if final:
            size = self.encoder.cfg.subsampled(self.read) - self.given
            whole = -(-size // each)
            missing = whole * self.hop + AHEAD - waiting.shape[1]
            waiting = torch.nn.functional.pad(waiting, (0, 0, 0, max(0, missing)), value=self.padding_value)
        self.waiting, self.given = waiting, self.given + size
        return whole, size

    def _next_chunk(self) -> Tensor:
        """(B, hop + AHEAD, F): the features of the next chunk, which are dropped up to the one after it."""
        assert self.waiting is not None
        chunk, self.waiting = self.waiting[:, : self.hop + AHEAD], self.waiting[:, self.hop :]
        return chunk
