"""Attention decoder: a Transformer that reads its own tokens and the encoder's frames (Vaswani et al. 2017),
trained beside CTC (Kim et al. 2017, arXiv:1609.06773) and used to rescore what CTC finds.

Module for module icefall's `AttentionDecoderModel`: norms before the sublayers and none after the last, one
id for both ends of a sentence, absolute sinusoids. Parameter names and shapes are those that icefall has
under `attention_decoder.decoder.`. What icefall's attention has and this one lacks: a gradient of 1e-4
against scores beyond 50, which fused attention never shows; a training that goes well has none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.encoders.positions import sinusoids
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep
from maya.heads.cost import HeadFlops, HeadMemory, Terms
from maya.ranges import BelowOne, Count, PosInt

KeysValues = tuple[Tensor, Tensor]  # each (B, H, positions, K)
IGNORED = -1  # target of a position that does not count


@config
class AttentionDecoderConfig(HeadConfig):
    """The defaults are those of icefall's recipes, whose `eos` is 1."""

    writes_text: ClassVar[bool] = True

    kind: Literal["attention"] = "attention"
    layers: PosInt = 6
    dim: PosInt = 512
    heads: PosInt = 8
    feed_forward: PosInt = 2048
    dropout: BelowOne = 0.1
    label_smoothing: BelowOne = 0.1
    eos: Count | None = None  # id that stands before the first token and after the last; None: blank's

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        read, dim, outputs = tokens + 1, self.dim, context.labels + 1
        products = read * dim * (6 * dim + 2 * self.feed_forward)  # queries, keys, values, outputs; forward
        products += 2 * frames * context.dim * dim  # keys and values of the frames
        attention = 2 * read * dim * (read + frames)
        forward = {f"{name} head": 2.0 * (self.layers * (products + attention) + read * dim * outputs)}
        return HeadFlops(forward=forward, training={key: 3 * value for key, value in forward.items()})

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        # What autograd keeps of a layer, counted: inputs of products, of norms and of attention, in fp32.
        dim, outputs = self.dim, 4.0 * (context.labels + 1)
        mask = (1 if cuda else 4) if self.dropout else 0  # bytes of a mask of dropout
        layer = 48 * dim + 8 * self.feed_forward + 24 + 8 * self.heads + mask * (3 * dim + self.feed_forward)
        terms = Terms(
            frame=self.layers * (8.0 * dim + 4) + 4 * context.dim + 1,
            label=self.layers * layer + (4 + mask) * dim + outputs + 17,
        )
        part, moments = f"{name} head and loss", {f"{name} loss, backward": Terms(label=2 * outputs)}
        return HeadMemory(kept={part: terms}, released=frozenset((part,)), moments=moments)

    def build(self, context: HeadContext) -> "AttentionDecoder":
        return AttentionDecoder(self, context.dim, context.labels, context.blank)


@dataclass(frozen=True, slots=True)
class Memory:
    """The frames of B utterances as each layer's cross-attention reads them.

    layers: keys and values, each (B, H, S, K). seen: (B, 1, 1, S) bool, False on padding.
    """

    layers: tuple[KeysValues, ...]
    seen: Tensor


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What N = B * n token sequences have read, those of an utterance together: keys and values of each
    layer, (N, H, tokens, K). The frames are stored once for the n sequences of an utterance."""

    past: tuple[KeysValues, ...]
    memory: Memory

    def select(self, rows: Tensor) -> "DecoderState":
        """The states of `rows` (N',) int64, n' of each utterance, and in the utterances' order."""
        past = tuple((k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.past)
        return DecoderState(past, self.memory)


class Attention(nn.Module):
    """Multi-head attention through torch's `scaled_dot_product_attention`, without dropout of the weights."""

    def __init__(self, dim: int, heads: int, memory_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(memory_dim, dim)
        self.linear_v = nn.Linear(memory_dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def keys_values(self, x: Tensor) -> KeysValues:
        """(B, S, memory_dim) -> keys and values, each (B, H, S, K)."""
        return self._split(self.linear_k(x)), self._split(self.linear_v(x))

    def forward(
        self, x: Tensor, keys_values: KeysValues, seen: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """x (B, U, D) -> (B, U, D); `seen` bool broadcasts to (B, H, U, S)."""
        q = self._split(self.linear_q(x))
        y = F.scaled_dot_product_attention(q, *keys_values, attn_mask=seen, is_causal=causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the frames, feed-forward; each added to what comes in."""

    def __init__(self, cfg: AttentionDecoderConfig, memory_dim: int) -> None:
        super().__init__()
        self.norm_self_attn = nn.LayerNorm(cfg.dim)
        self.self_attn = Attention(cfg.dim, cfg.heads, cfg.dim)
        self.norm_src_attn = nn.LayerNorm(cfg.dim)
        self.src_attn = Attention(cfg.dim, cfg.heads, memory_dim)
        self.norm_ff = nn.LayerNorm(cfg.dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(cfg.dim, cfg.feed_forward),
            nn.SiLU(),
            nn.Dropout(cfg.dropout),
            nn.Linear(cfg.feed_forward, cfg.dim),
        )
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(
        self, x: Tensor, past: KeysValues | None, frames: KeysValues, seen: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """x (N, U, D), all of a sequence, or its next token after `past` (U = 1) -> x, keys and values of
        all."""
        y = self.norm_self_attn(x)
        k, v = self.self_attn.keys_values(y)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.dropout(self.self_attn(y, (k, v), causal=x.shape[1] > 1))
        # Queries do not meet in cross-attention: the sequences of an utterance may stand in one row.
        y = self.norm_src_attn(x).view(len(seen), -1, x.shape[-1])
        x = x + self.dropout(self.src_attn(y, frames, seen).view(x.shape))
        return x + self.dropout(self.feed_forward(self.norm_ff(x))), (k, v)


class TransformerDecoder(Head):
    """The base of Transformer decoders: frames to `Memory`, tokens to the scores of each next token.

    A subclass has `cfg` with `dim` and `heads`, and defines `cross_attentions`, `decode` and `scores`. eos:
    the id that ends a text. outputs: how many scores a token has. never: ids that decoding does not write.
    """

    eos: int
    outputs: int
    never: tuple[int, ...] = ()

    def projected(self, enc: Tensor, seen: Tensor) -> Tensor:
        """The frames (B, S, D) as the layers read them; seen (B, 1, 1, S)."""
        return enc

    def cross_attentions(self) -> list[Attention]:
        """The attention to the frames of each layer."""
        raise NotImplementedError(f"{type(self).__name__}.cross_attentions")

    def decode(
        self, tokens: Tensor, first: int, past: Sequence[KeysValues] | None, memory: Memory
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        """tokens (B * n, U) at positions `first` and after -> (B * n, U, D) and the layers' keys and
        values."""
        raise NotImplementedError(f"{type(self).__name__}.decode")

    def scores(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V): the logits."""
        raise NotImplementedError(f"{type(self).__name__}.scores")

    def memory(self, enc: Tensor, enc_lens: Tensor) -> Memory:
        """enc (B, S, D), enc_lens (B,) frames -> what decoding reads of them. An utterance without frames is
        taken for one frame of zeros."""
        enc = F.pad(enc, (0, 0, 0, 1)) if enc.shape[1] == 0 else enc
        place, lens = torch.arange(enc.shape[1], device=enc.device), enc_lens.to(enc.device)[:, None]
        # Padding that is NaN would stay NaN at weight 0.
        enc = enc.masked_fill((place >= lens)[..., None], 0.0)
        seen = (place < lens.clamp(min=1))[:, None, None]
        enc = self.projected(enc, seen)
        return Memory(tuple(attention.keys_values(enc) for attention in self.cross_attentions()), seen)

    def start(self, memory: Memory, beam: int = 1) -> DecoderState:
        """The state of `beam` empty sequences for each utterance; the first token to read is `eos`, or the
        first of a prompt."""
        rows, heads, like = len(memory.seen) * beam, self.cfg.heads, next(self.parameters())
        none = like.new_zeros(rows, heads, 0, self.cfg.dim // heads)
        return DecoderState(tuple((none, none) for _ in memory.layers), memory)

    def read(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read tokens (N, U), all of a prompt or then one at a time -> log probabilities (N, V) of the next,
        fp32 at least, and the new state. Work and memory grow with the tokens read so far, not with their
        square."""
        first = state.past[0][0].shape[2]
        assert tokens.shape[1] == 1 or not first
        x, past = self.decode(tokens, first, state.past, state.memory)
        return _wide(self.scores(x[:, -1])).log_softmax(-1), DecoderState(past, state.memory)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """`read` of one token per sequence, (N,)."""
        return self.read(tokens[:, None], state)

    def logits(self, tokens: Tensor, memory: Memory) -> Tensor:
        """tokens (B * n, U), whole sequences -> (B * n, U, V)."""
        return self.scores(self.decode(tokens, 0, None, memory)[0])


class AttentionDecoder(TransformerDecoder):
    """Tokens and frames to the scores of each next token.

    `vocab_size` does not count blank, whose id is `vocab_size` unless `blank` says otherwise (icefall: 0). It
    has an output here too, as in icefall, which is never right unless it stands for `eos`.
    """

    def __init__(
        self, cfg: AttentionDecoderConfig, enc_dim: int, vocab_size: int, blank: int | None = None
    ) -> None:
        super().__init__()
        self.blank = vocab_size if blank is None else blank
        self.eos = self.blank if cfg.eos is None else cfg.eos
        _check(cfg, vocab_size, self.eos)
        self.outputs = vocab_size + 1
        self.never = () if self.blank == self.eos else (self.blank,)
        self.cfg = cfg
        self.embed = nn.Embedding(vocab_size + 1, cfg.dim)
        self.layers = nn.ModuleList(DecoderLayer(cfg, enc_dim) for _ in range(cfg.layers))
        self.output_layer = nn.Linear(cfg.dim, vocab_size + 1)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """enc (B, S, D), enc_lens (B,), tokens (B, U), token_lens (B,) -> logits (B, U+1, V); output u has
        read tokens[:, :u]. Padding of `enc` and `tokens` may hold anything."""
        return self.logits(self._with_ends(tokens, token_lens)[0], self.memory(enc, enc_lens))

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        return {"loss": self.loss(encoded.frames, encoded.lens, batch.tokens, batch.token_lens)}

    def loss(self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Label-smoothed cross-entropy of each utterance, (B,), in nats; arguments as in `forward`.

        Summed over its U + 1 targets, the last of which is `eos`, against (1 - e) for the target plus e / V
        for every output (Szegedy et al. 2016, arXiv:1512.00567; icefall's LabelSmoothingLoss), e being
        cfg.label_smoothing. Nothing is divided by here: the training loop divides sums of losses by a count
        of its own. fp64 for an fp64 model, fp32 otherwise, also under autocast.
        """
        inputs, targets = self._with_ends(tokens, token_lens)
        logits = self.logits(inputs, self.memory(enc, enc_lens))
        return cross_entropy(logits, targets, self.cfg.label_smoothing)

    def score(self, tokens: Tensor, token_lens: Tensor, memory: Memory) -> Tensor:
        """Log probabilities (B, n), in nats, of n token sequences for each utterance, `eos` included.

        tokens (B, n, U), token_lens (B, n). The frames are projected once, however large n is.
        """
        inputs, targets = self._with_ends(tokens.flatten(0, 1), token_lens.flatten())
        return -cross_entropy(self.logits(inputs, memory), targets, 0.0).view(token_lens.shape)

    def cross_attentions(self) -> list[Attention]:
        return [layer.src_attn for layer in self._layers()]

    def decode(
        self, tokens: Tensor, first: int, past: Sequence[KeysValues] | None, memory: Memory
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        x, read = self._embedded(tokens, first), []
        for i, layer in enumerate(self._layers()):
            x, keys_values = layer(x, past[i] if past else None, memory.layers[i], memory.seen)
            read.append(keys_values)
        return x, tuple(read)

    def scores(self, x: Tensor) -> Tensor:
        return self.output_layer(x)

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def _embedded(self, tokens: Tensor, first: int) -> Tensor:
        """(N, U) -> (N, U, D), the tokens at positions `first` and after."""
        x = self.embed(tokens)
        places = torch.arange(first, first + tokens.shape[1], dtype=torch.float32, device=x.device)
        positions = sinusoids(places, self.cfg.dim)
        return self.dropout(x * math.sqrt(self.cfg.dim) + positions.to(x.dtype))

    def _with_ends(self, tokens: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, U) -> what is read and what is to be said, both (B, U+1)."""
        place, lens = torch.arange(tokens.shape[1] + 1, device=tokens.device), lens.to(tokens.device)[:, None]
        inputs = tokens.masked_fill(place[:-1] >= lens, self.eos)
        targets = F.pad(inputs, (0, 1), value=self.eos).masked_fill(place > lens, IGNORED)
        return F.pad(inputs, (1, 0), value=self.eos), targets


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """logits (B, U, V), targets (B, U), IGNORED where none counts -> (B,), in nats, summed."""
    each = F.cross_entropy(
        _wide(logits).flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction="none",
    )
    return each.view(targets.shape).sum(1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check(cfg: AttentionDecoderConfig, vocab_size: int, eos: int) -> None:
    if vocab_size < 1:
        raise MayaError(f"the attention decoder needs a vocabulary of at least 1, not {vocab_size}")
    if cfg.dim % cfg.heads or cfg.dim % 2:
        raise MayaError(
            f"the dim of an attention head must be even and a multiple of heads={cfg.heads}, not {cfg.dim}"
        )
    if not 0 <= eos <= vocab_size:
        raise MayaError(
            f"the eos of an attention head must be one of {vocab_size} tokens or the blank, not {eos}"
        )
