"""Whisper's decoder (Radford et al. 2022, arXiv:2212.04356): a Transformer that reads prompt tokens for
language, task and timestamps, and the encoder's frames. Its outputs are tied to its embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.encoders.whisper.blocks import KeysValues, WhisperBlock
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.heads.attention import IGNORED, AttentionDecoderConfig
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, Prediction
from maya.heads.classify import LANGUAGE
from maya.heads.cost import HeadFlops, HeadMemory
from maya.ranges import BelowOne, Count, PosInt

TIMESTAMP_SECONDS = 0.02  # from one timestamp token to the next


@config
class WhisperTokens:
    """Ids of the tokens that are not text; the defaults are those of the English models.

    languages: codes in the order of their tokens, the first of which is `first_language`; none: a model of
    English only, which reads neither language nor task. zero: of the timestamp 0.00 s, after which all others
    follow.
    """

    end: Count = 50256
    start: Count = 50257
    first_language: Count = 50258
    languages: tuple[str, ...] = ()
    translate: Count = 50357
    transcribe: Count = 50358
    previous: Count = 50360
    no_speech: Count = 50361
    no_timestamps: Count = 50362
    zero: Count = 50363

    def language(self, code: str) -> int:
        """The token of a language. Raises MayaError for one that the decoder does not know."""
        if code not in self.languages:
            raise MayaError(f"Whisper's decoder has no token for the language {code!r}; name another")
        return self.first_language + self.languages.index(code)


@config
class WhisperDecoderConfig(HeadConfig):
    """The defaults are those of Whisper tiny.en.

    task: in training and decoding. suppress: tokens that decoding never writes; suppress_first: not as the
    first. alignment_heads: layer * heads + head of each head of attention that follows the speech.
    """

    writes_text: ClassVar[bool] = True

    kind: Literal["whisper"] = "whisper"
    layers: PosInt = 4
    dim: PosInt = 384
    heads: PosInt = 6
    positions: PosInt = 448
    label_smoothing: BelowOne = 0.0
    task: Literal["transcribe", "translate"] = "transcribe"
    tokens: WhisperTokens = field(default_factory=WhisperTokens)
    suppress: tuple[Count, ...] = ()
    suppress_first: tuple[Count, ...] = ()
    alignment_heads: tuple[Count, ...] = ()

    @property
    def _shape(self) -> AttentionDecoderConfig:
        """The attention decoder that costs as much."""
        return AttentionDecoderConfig(
            layers=self.layers, dim=self.dim, heads=self.heads, feed_forward=4 * self.dim, dropout=0.0
        )

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        return self._shape.flops(name, context, frames, tokens)

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        return self._shape.memory(name, context, cuda=cuda)


@dataclass(frozen=True, slots=True)
class WhisperState:
    """What N = B * n token sequences have read, those of an utterance together.

    frames: of each layer, keys and values (B, H, S, K) of the utterances. seen: (B, 1, 1, S) bool, None where
    all frames exist. past: of each layer, keys and values (N, H, tokens, K); none before the first token.
    """

    frames: tuple[KeysValues, ...]
    seen: Tensor | None
    past: tuple[KeysValues, ...] = ()

    @property
    def read(self) -> int:
        """Tokens read."""
        return self.past[0][0].shape[2] if self.past else 0


class WhisperDecoder(Head, config=WhisperDecoderConfig):
    """Tokens and frames to the scores of each next token. Parameters have OpenAI's names, `layers` being its
    `blocks`."""

    conditioned = False  # the prompt names the language
    cfg: WhisperDecoderConfig

    def __init__(self, cfg: WhisperDecoderConfig, context: HeadContext) -> None:
        super().__init__()
        if context.dim != cfg.dim:
            raise MayaError(
                f"Whisper's decoder of dim {cfg.dim} cannot read frames of {context.dim} channels"
            )
        if cfg.dim % cfg.heads:
            raise MayaError(
                f"the dim of a whisper head must be a multiple of heads={cfg.heads}, not {cfg.dim}"
            )
        ids = cfg.tokens
        if max(ids.end, ids.start, ids.zero, ids.no_timestamps) >= context.labels:
            raise MayaError(
                f"the tokens of a whisper head lie beyond its vocabulary of {context.labels}; keep the "
                "tokenizer of the model that it was made from (tokenizer.file)"
            )
        self.cfg = cfg
        self.languages = [ids.language(code) for code in context.languages] if ids.languages else []
        self.codes = context.languages
        self.predicts = LANGUAGE if self.languages else ""
        self.token_embedding = nn.Embedding(context.labels, cfg.dim)
        self.positional_embedding = nn.Parameter(torch.randn(cfg.positions, cfg.dim) * 0.02)
        self.layers = nn.ModuleList(WhisperBlock(cfg.dim, cfg.heads, cross=True) for _ in range(cfg.layers))
        self.ln = nn.LayerNorm(cfg.dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def state(self, encoded: Encoded) -> WhisperState:
        """What decoding reads of the frames, before the first token."""
        enc, lens = encoded.frames, encoded.lens_on_host
        full = bool((lens == enc.shape[1]).all())
        # A row without frames reads one of zeros: attention to nothing is not a number.
        seen = None if full else frame_mask(encoded.lens.clamp(min=1), enc.shape[1])[:, None, None]
        return WhisperState(tuple(layer.cross_attn.keys_values(enc) for layer in self.blocks()), seen)

    def step(self, tokens: Tensor, state: WhisperState) -> tuple[Tensor, WhisperState]:
        """Read tokens (N, U), all of a prompt or then one at a time -> logits (N, U, V) fp32 at least, and
        the new state."""
        assert tokens.shape[1] == 1 or not state.past
        return self._read(tokens, state, None)

    def attention(self, tokens: Tensor, state: WhisperState) -> tuple[Tensor, list[Tensor]]:
        """Read whole sequences (B, U) -> logits (B, U, V), and of each layer the scores of the attention to
        the frames (B, H, U, S), before the softmax."""
        scores: list[Tensor] = []
        return self._read(tokens, state, scores)[0], scores

    def prompt(self, langs: Sequence[int], timestamps: bool = False) -> list[list[int]]:
        """The tokens before a text, for each index into the model's languages, -1 for unknown ones. Raises
        MayaError for an unknown language where the decoder reads one."""
        ids = self.cfg.tokens
        last = [] if timestamps else [ids.no_timestamps]
        if not ids.languages:
            return [[ids.start, *last] for _ in langs]
        if any(lang < 0 for lang in langs):
            raise MayaError("Whisper's decoder needs the language of each utterance; label the data with it")
        task = ids.translate if self.cfg.task == "translate" else ids.transcribe
        return [[ids.start, self.languages[lang], task, *last] for lang in langs]

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """Minus the log-probability of each text and of the token that ends it, in nats, summed."""
        inputs, targets = self.training_rows(batch)
        logits = self.step(inputs, self.state(encoded))[0]
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none",
            label_smoothing=self.cfg.label_smoothing,
        )  # fmt: skip
        return {"loss": each.view(targets.shape).sum(1)}

    def training_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prompt and text (B, P + U), and the targets after each of them, IGNORED before the text. Raises
        MayaError for a text that has no room."""
        prompt = numbers(self.prompt(batch.on_host("langs").tolist()), batch.tokens)
        size, room = prompt.shape[1] + batch.tokens.shape[1], self.cfg.positions
        if size > room:
            raise MayaError(
                f"a transcript of {batch.tokens.shape[1]} tokens does not fit into the {room} positions of "
                "Whisper's decoder; leave such utterances out"
            )
        end, lens = self.cfg.tokens.end, batch.token_lens[:, None]
        places = torch.arange(batch.tokens.shape[1] + 1, device=batch.tokens.device)
        tokens = batch.tokens.masked_fill(places[:-1] >= lens, end)
        targets = F.pad(tokens, (0, 1), value=end).masked_fill(places > lens, IGNORED)
        targets = F.pad(targets, (prompt.shape[1] - 1, 0), value=IGNORED)
        return torch.cat([prompt, tokens], dim=1), targets

    @torch.no_grad()
    def predict(self, encoded: Encoded) -> list[Prediction]:
        """The language of each utterance, among those of the model."""
        start = encoded.lens.new_full((len(encoded.frames), 1), self.cfg.tokens.start)
        logits = self.step(start, self.state(encoded))[0][:, 0, self.languages]
        best = logits.softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Prediction(label=self.codes[index], probability=value) for index, value in pairs]

    def _read(
        self, tokens: Tensor, state: WhisperState, scores: list[Tensor] | None
    ) -> tuple[Tensor, WhisperState]:
        x = self.token_embedding(tokens)
        x = x + self.positional_embedding[state.read : state.read + tokens.shape[1]]
        past = []
        for i, layer in enumerate(self.blocks()):
            before = state.past[i] if state.past else None
            x, keys_values = layer.decode(x, before, state.frames[i], state.seen, scores)
            past.append(keys_values)
        logits = F.linear(self.ln(x), self.token_embedding.weight)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits, WhisperState(state.frames, state.seen, tuple(past))

    def blocks(self) -> list[WhisperBlock]:
        """The layers."""
        return [layer for layer in self.layers if isinstance(layer, WhisperBlock)]


def numbers(rows: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """(B, n) int64 of rows of equal length, on the device of `like`."""
    return torch.tensor(rows, dtype=torch.int64, device=like.device)
