"""Features that come in pieces of any size → encoder output, alike for every encoder that can stream."""

from typing import Any, Protocol

import torch
from torch import Tensor

from maya.encoders.conformer.fastconformer import FastConformer
from maya.encoders.lact.encoder import LaCT
from maya.encoders.zipformer.config import Chunking, check_chunking
from maya.encoders.zipformer.encoder import Zipformer
from maya.encoders.zipformer.front import LOST_FRAMES, REACH
from maya.errors import MayaError

AHEAD = LOST_FRAMES + 2 * REACH  # feature frames that Zipformer reads beyond a chunk


class EncoderStream(Protocol):
    """The encoder's side of streams that begin and end together."""

    def push(self, feats: Tensor, final: bool = False) -> tuple[Tensor, Tensor]:
        """feats (B, t, F), the next features, t >= 0 -> enc (B, S, D), enc_lens (B,): what they complete, and
        with `final` all the rest."""


def encoder_stream(
    encoder: FastConformer | Zipformer | LaCT,
    batch: int,
    context: tuple[int, int] | None = None,
    *,
    padding_value: float = 0.0,
) -> EncoderStream:
    """`batch` streams before their first piece.

    context: of a FastConformer one of its att_context_size, of a LaCT its window, of a Zipformer frames of
        left context and frames of a chunk, both of 20 ms; None takes the first that the configuration names.
    padding_value: of features beyond the end. Raises MayaError for an encoder that cannot stream.
    """
    if isinstance(encoder, Zipformer):
        return ZipformerStream(encoder, batch, _chunking(encoder, context), padding_value=padding_value)
    return ConformerStream(encoder, batch, context)


class ConformerStream:
    """FastConformer and LaCT take pieces of any size by themselves."""

    def __init__(self, encoder: FastConformer | LaCT, batch: int, context: tuple[int, int] | None) -> None:
        self.encoder = encoder
        self.state: Any = encoder.initial_state(batch, context=context)  # of the encoder's own kind

    def push(self, feats: Tensor, final: bool = False, same_speaker: bool = False) -> tuple[Tensor, Tensor]:
        """As `EncoderStream`. Of a LaCT that ends, `same_speaker` keeps what its fast weights have learnt for
        the next utterance, which may be pushed from then on."""
        lens = torch.full((len(feats),), feats.shape[1], device=feats.device)
        ends = torch.full((len(feats),), final, device=feats.device)
        keep: dict[str, Any] = {"keep": True} if same_speaker else {}
        enc, enc_lens, self.state = self.encoder.stream(feats, lens, self.state, final=ends, **keep)
        return enc, enc_lens


class ZipformerStream:
    """Holds features back until a chunk and the 13 frames behind it are there, and fills the last one up.

    Gives what `Zipformer.forward` gives with the same `Chunking` for features that are followed by padding up
    to the end of the last chunk, as icefall does it. For features without it the front end and the attention
    leave out what lies beyond the end, and so the last chunk comes out a little different.
    """

    def __init__(
        self, encoder: Zipformer, batch: int, chunking: Chunking, *, padding_value: float = 0.0
    ) -> None:
        if encoder.training:
            raise MayaError("streaming is for evaluation: call model.eval() first")
        if not encoder.cfg.causal:
            raise MayaError(
                "this encoder cannot stream: encoder.causal is false; train it so from the start, or "
                "transcribe whole files"
            )
        check_chunking(encoder.cfg, chunking)
        chunk, left = chunking.chunk, chunking.left
        if chunk < 1 or left < 1:
            raise MayaError(
                f"streaming needs a chunk and a left context of 1 frame or more, not {chunk} and {left}"
            )
        self.encoder, self.padding_value = encoder, padding_value
        self.hop = 2 * chunk  # feature frames from one chunk to the next
        self.state = encoder.initial_state(batch, max(1, left // chunk) * chunk)
        self.waiting: Tensor | None = None  # (B, t, F) from the beginning of the next chunk on
        self.read = self.given = 0  # feature frames, encoder frames

    def push(self, feats: Tensor, final: bool = False) -> tuple[Tensor, Tensor]:
        """As `EncoderStream`."""
        self.read += feats.shape[1]
        waiting = feats if self.waiting is None else torch.cat([self.waiting, feats], 1)
        whole = max(0, (waiting.shape[1] - AHEAD) // self.hop)
        each = self.hop // self.encoder.cfg.subsampling_factor
        size = whole * each
        if final:
            size = int(self.encoder.subsampled_lens(torch.tensor(self.read))) - self.given
            whole = -(-size // each)
            missing = whole * self.hop + AHEAD - waiting.shape[1]
            waiting = torch.nn.functional.pad(waiting, (0, 0, 0, max(0, missing)), value=self.padding_value)
        pieces = [feats.new_zeros(len(feats), 0, self.encoder.cfg.d_model)]
        for index in range(whole):
            begin = index * self.hop
            enc, self.state = self.encoder.stream(waiting[:, begin : begin + self.hop + AHEAD], self.state)
            pieces.append(enc)
        self.waiting, self.given = waiting[:, whole * self.hop :], self.given + size
        return torch.cat(pieces, 1)[:, :size], torch.full((len(feats),), size, device=feats.device)


def _chunking(encoder: Zipformer, context: tuple[int, int] | None) -> Chunking:
    """What was asked for, else what was set on the encoder, else the first limits of the configuration."""
    if context is not None:
        left, chunk = context
        return Chunking(chunk, left)
    if encoder.chunking.chunk > 0 and encoder.chunking.left > 0:
        return encoder.chunking
    cfg = encoder.cfg
    chunk, left = (
        next((n for n in choices if n > 0), -1) for choices in (cfg.chunk_frames, cfg.left_context_frames)
    )
    return Chunking(chunk, left)
