"""The decoder of NVIDIA's Canary (Puvvada et al. 2024, arXiv:2406.19674): a Transformer that reads a prompt
of languages and options, then its own tokens, and the encoder's frames. Its outputs are tied to its
embeddings.

Module for module NeMo's `TransformerDecoderNM`, with its optional projection and Transformer encoder between
the speech encoder and the decoder. What NeMo's has and this one lacks: dropout of attention weights.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.encoders.positions import sinusoids
from maya.errors import MayaError
from maya.heads.attention import (
    IGNORED,
    Attention,
    AttentionDecoderConfig,
    KeysValues,
    Memory,
    TransformerDecoder,
    cross_entropy,
)
from maya.heads.base import HeadConfig, HeadContext, LossStep, Prediction
from maya.heads.classify import LANGUAGE
from maya.heads.cost import HeadFlops, HeadMemory
from maya.ranges import BelowOne, Count, PosInt

Ids = tuple[Count, ...]


@config
class CanaryTokens:
    """Ids of the tokens that are not text.

    form: of the prompt. "canary": start, source language, task, target language, punctuation. "canary2":
    begin, the text before, start, emotion, source language, target language, punctuation, inverse text
    normalisation, timestamps, speakers.
    languages: codes, and language_ids the token of each. pnc, itn, timestamp, diarize: the tokens for yes and
    for no. emotions: the first is the undefined one. zero: of the timestamp of frame 0; times: their number.
    special: all tokens that are no text, these among them.
    """

    form: Literal["canary", "canary2"] = "canary"
    end: Count = 3
    start: Count = 4
    begin: Count = 0
    languages: tuple[str, ...] = ()
    language_ids: Ids = ()
    transcribe: Count = 0
    translate: Count = 0
    emotions: Ids = ()
    pnc: Ids = ()
    itn: Ids = ()
    timestamp: Ids = ()
    diarize: Ids = ()
    zero: Count = 0
    times: Count = 0
    special: Ids = ()

    def language(self, code: str) -> int:
        """The token of a language. Raises MayaError for one that the decoder does not know."""
        if code not in self.languages:
            names = ", ".join(self.languages)
            raise MayaError(f"Canary's decoder has no token for the language {code!r}; it has {names}")
        return self.language_ids[self.languages.index(code)]


@config
class CanaryPrompt:
    """What the prompt asks for. target: the language of the text, "" for that of the speech; another one
    translates. punctuation: with capital letters. inverse_normalisation: numbers in digits. timestamps: of
    words. diarize: turns of speakers. All but target and punctuation need prompts of the form "canary2"."""

    target: str = ""
    punctuation: bool = True
    inverse_normalisation: bool = False
    timestamps: bool = False
    diarize: bool = False


@config
class TransformerConfig:
    """A stack of Transformer layers. pre_norm: norms before the sublayers, and with final_norm another after
    the last layer; otherwise norms after the sublayers."""

    layers: Count = 4
    heads: PosInt = 8
    feed_forward: PosInt = 4096
    activation: Literal["relu", "gelu"] = "relu"
    pre_norm: bool = True
    final_norm: bool = True


@config
class CanaryDecoderConfig(HeadConfig):
    """The defaults are those of canary-1b-flash.

    decoder: its layers. between: layers without positions between speech encoder and decoder. positions: of
    tokens, learned_positions or sinusoids. prompt: in training, and in decoding where nothing else is asked.
    """

    writes_text: ClassVar[bool] = True

    kind: Literal["canary"] = "canary"
    dim: PosInt = 1024
    decoder: TransformerConfig = field(default_factory=TransformerConfig)
    between: TransformerConfig = field(default_factory=lambda: TransformerConfig(layers=0))
    positions: PosInt = 1024
    learned_positions: bool = False
    dropout: BelowOne = 0.1
    label_smoothing: BelowOne = 0.0
    tokens: CanaryTokens = field(default_factory=CanaryTokens)
    prompt: CanaryPrompt = field(default_factory=CanaryPrompt)

    @property
    def heads(self) -> int:
        """Of attention in the decoder."""
        return self.decoder.heads

    @property
    def _shape(self) -> AttentionDecoderConfig:
        """The attention decoder that costs as much; layers between are counted as its own."""
        return AttentionDecoderConfig(
            layers=max(1, self.decoder.layers + self.between.layers), dim=self.dim, heads=self.heads,
            feed_forward=self.decoder.feed_forward, dropout=self.dropout,
        )  # fmt: skip

    def describe(self) -> str:
        ids = self.tokens
        shape = f"{self.decoder.layers} layers × {self.dim}"
        return f"weight {self.weight:g}, {shape}, prompts {ids.form}, languages {' '.join(ids.languages)}"

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        return self._shape.flops(name, context, frames, tokens)

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        return self._shape.memory(name, context, cuda=cuda)


class TransformerLayer(nn.Module):
    """Self-attention, attention to the frames if it is `cross`, feed-forward; each added to what comes in."""

    def __init__(self, cfg: TransformerConfig, dim: int, dropout: float, *, cross: bool) -> None:
        super().__init__()
        self.pre_norm = cfg.pre_norm
        self.norm_self_attn = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, cfg.heads, dim)
        self.norm_src_attn = nn.LayerNorm(dim) if cross else None
        self.src_attn = Attention(dim, cfg.heads, dim) if cross else None
        self.norm_ff = nn.LayerNorm(dim)
        activation = nn.GELU() if cfg.activation == "gelu" else nn.ReLU()
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, cfg.feed_forward), activation, nn.Linear(cfg.feed_forward, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: KeysValues | None, frames: KeysValues | None, seen: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """x (N, U, D) -> x, keys and values of all. With `cross`: all of a sequence, or its next token after
        `past` (U = 1), and the frames, of which those in `seen` exist. Otherwise x are the frames."""
        causal = self.src_attn is not None
        y = self.norm_self_attn(x) if self.pre_norm else x
        k, v = self.self_attn.keys_values(y)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = self.self_attn(y, (k, v), None if causal else seen, causal=causal and x.shape[1] > 1)
        x = self._added(x, y, self.norm_self_attn)
        if self.src_attn is not None and self.norm_src_attn is not None:
            # Queries do not meet in cross-attention: the sequences of an utterance may stand in one row.
            y = (self.norm_src_attn(x) if self.pre_norm else x).view(len(seen), -1, x.shape[-1])
            x = self._added(x, self.src_attn(y, frames, seen).view(x.shape), self.norm_src_attn)
        y = self.feed_forward(self.norm_ff(x) if self.pre_norm else x)
        return self._added(x, y, self.norm_ff), (k, v)

    def _added(self, x: Tensor, y: Tensor, norm: nn.LayerNorm) -> Tensor:
        x = x + self.dropout(y)
        return x if self.pre_norm else norm(x)


class CanaryDecoder(TransformerDecoder, config=CanaryDecoderConfig):
    """Tokens and frames to the scores of each next token. NeMo rounds the number of outputs up to a multiple
    of 8; those beyond the tokens are never written."""

    conditioned = False  # the prompt names the language
    cfg: CanaryDecoderConfig
    positions: Tensor

    def __init__(self, cfg: CanaryDecoderConfig, context: HeadContext) -> None:
        super().__init__()
        _check(cfg, context)
        ids, dim = cfg.tokens, cfg.dim
        self.cfg, self.eos = cfg, ids.end
        self.outputs = -(-context.labels // 8) * 8
        self.never = (*(i for i in ids.special if i != ids.end), *range(context.labels, self.outputs))
        self.codes = context.languages
        self.predicts = LANGUAGE if self.codes else ""
        self.language_ids = [ids.language(code) for code in self.codes]
        self.token_embedding = nn.Embedding(self.outputs, dim)
        table = torch.randn(cfg.positions, dim) * dim**-0.5
        if cfg.learned_positions:
            self.positions = nn.Parameter(table)
        else:
            fixed = sinusoids(torch.arange(cfg.positions, dtype=torch.float32), dim) / dim**0.5
            self.register_buffer("positions", fixed)
        self.norm_embedding = nn.LayerNorm(dim)
        self.projection = nn.Linear(context.dim, dim) if context.dim != dim else nn.Identity()
        self.between = _stack(cfg.between, cfg, cross=False)
        self.norm_between = _final_norm(cfg.between, dim)
        self.layers = _stack(cfg.decoder, cfg, cross=True)
        self.norm = _final_norm(cfg.decoder, dim)
        self.output_bias = nn.Parameter(torch.zeros(self.outputs))
        self.dropout = nn.Dropout(cfg.dropout)
        nn.init.normal_(self.token_embedding.weight, std=dim**-0.5)

    def projected(self, enc: Tensor, seen: Tensor) -> Tensor:
        x = self.projection(enc)
        for layer in _layers(self.between):
            x, _ = layer(x, None, None, seen)
        return self.norm_between(x)

    def cross_attentions(self) -> list[Attention]:
        return [layer.src_attn for layer in _layers(self.layers) if layer.src_attn is not None]

    def decode(
        self, tokens: Tensor, first: int, past: Sequence[KeysValues] | None, memory: Memory
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        x = self.token_embedding(tokens) + self.positions[first : first + tokens.shape[1]]
        x, read = self.dropout(self.norm_embedding(x)), []
        for i, layer in enumerate(_layers(self.layers)):
            x, keys_values = layer(x, past[i] if past else None, memory.layers[i], memory.seen)
            read.append(keys_values)
        return self.norm(x), tuple(read)

    def scores(self, x: Tensor) -> Tensor:
        return F.linear(x, self.token_embedding.weight, self.output_bias)

    def prompt(
        self, langs: Sequence[int], asked: CanaryPrompt | None = None, context: Sequence[int] = ()
    ) -> list[list[int]]:
        """The tokens before a text, for each index into the model's languages. context: the tokens of the
        text before. Raises MayaError for -1, an unknown language, and for options that the form lacks."""
        ids, asked = self.cfg.tokens, asked or self.cfg.prompt
        if any(lang < 0 for lang in langs):
            raise MayaError("Canary's decoder needs the language of each utterance; label the data with it")
        rows = []
        for source in [self.language_ids[lang] for lang in langs]:
            target = ids.language(asked.target) if asked.target else source
            pnc = ids.pnc[0 if asked.punctuation else 1]
            if ids.form == "canary":
                if context or asked.inverse_normalisation or asked.timestamps or asked.diarize:
                    raise MayaError(
                        "this Canary takes languages and punctuation alone: no context, inverse "
                        "normalisation, timestamps or speakers"
                    )
                task = ids.transcribe if source == target else ids.translate
                rows.append([ids.start, source, task, target, pnc])
                continue
            options = [(ids.itn, asked.inverse_normalisation), (ids.timestamp, asked.timestamps),
                       (ids.diarize, asked.diarize)]  # fmt: skip
            last = [pair[0 if wanted else 1] for pair, wanted in options]
            rows.append([ids.begin, *context, ids.start, ids.emotions[0], source, target, pnc, *last])
        return rows

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """Label-smoothed cross-entropy of each text and of the token that ends it, in nats, summed; the
        prompt does not count. NeMo gives the smoothing e to the other V - 1 outputs: e V / (V - 1) to all."""
        inputs, targets = self.training_rows(batch)
        logits = self.logits(inputs, self.memory(encoded.frames, encoded.lens))
        smoothing = min(1.0, self.cfg.label_smoothing * self.outputs / (self.outputs - 1))
        return {"loss": cross_entropy(logits, targets, smoothing)}

    def training_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prompt and text (B, P + U), and the targets after each of them, IGNORED before the text. Raises
        MayaError for a text that has no room."""
        rows = self.prompt(batch.on_host("langs").tolist())
        prompt = torch.tensor(rows, dtype=torch.int64, device=batch.tokens.device)
        tokens, lens = batch.tokens, batch.token_lens[:, None]
        if prompt.shape[1] + tokens.shape[1] > self.cfg.positions:
            raise MayaError(
                f"a transcript of {tokens.shape[1]} tokens does not fit into the {self.cfg.positions} "
                "positions of Canary's decoder; leave such utterances out"
            )
        places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        tokens = tokens.masked_fill(places[:-1] >= lens, self.eos)
        targets = F.pad(tokens, (0, 1), value=self.eos).masked_fill(places > lens, IGNORED)
        targets = F.pad(targets, (prompt.shape[1] - 1, 0), value=IGNORED)
        return torch.cat([prompt, tokens], dim=1), targets

    @torch.no_grad()
    def predict(self, encoded: Encoded) -> list[Prediction]:
        """The language of each utterance, among those of the model: the token that follows the start of the
        prompt, in the form "canary2" after the likeliest emotion, as NeMo's partial prompt has it."""
        ids, rows = self.cfg.tokens, len(encoded.frames)
        first = [ids.start] if ids.form == "canary" else [ids.begin, ids.start]
        state = self.start(self.memory(encoded.frames, encoded.lens))
        log_probs, state = self.read(torch.tensor([first] * rows, device=encoded.frames.device), state)
        if ids.form == "canary2":
            emotions = torch.tensor(ids.emotions, device=log_probs.device)
            log_probs, _ = self.step(emotions[log_probs[:, emotions].argmax(-1)], state)
        best = log_probs[:, self.language_ids].softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Prediction(label=self.codes[index], probability=value) for index, value in pairs]


def _stack(cfg: TransformerConfig, head: CanaryDecoderConfig, *, cross: bool) -> nn.ModuleList:
    layers = (TransformerLayer(cfg, head.dim, head.dropout, cross=cross) for _ in range(cfg.layers))
    return nn.ModuleList(layers)


def _final_norm(cfg: TransformerConfig, dim: int) -> nn.Module:
    return nn.LayerNorm(dim) if cfg.layers and cfg.pre_norm and cfg.final_norm else nn.Identity()


def _layers(stack: nn.ModuleList) -> list[TransformerLayer]:
    return [layer for layer in stack if isinstance(layer, TransformerLayer)]


def _check(cfg: CanaryDecoderConfig, context: HeadContext) -> None:
    heads = [cfg.decoder.heads, *([cfg.between.heads] if cfg.between.layers else [])]
    if cfg.dim % 2 or any(cfg.dim % count for count in heads):
        raise MayaError(
            f"the dim of a canary head must be even and a multiple of its heads, {heads}, not {cfg.dim}"
        )
    if not cfg.decoder.layers:
        raise MayaError("a canary head needs layers in its decoder")
    ids = cfg.tokens
    if len(ids.languages) != len(ids.language_ids) or not ids.pnc:
        raise MayaError("the tokens of a canary head need languages with an id each, and punctuation")
    yes_no = (ids.itn, ids.timestamp, ids.diarize) if ids.form == "canary2" else ()
    if any(len(pair) != 2 for pair in (ids.pnc, *yes_no)) or (yes_no and not ids.emotions):
        raise MayaError("the options of a canary head need a token for yes and one for no, and emotions")
    every = (ids.end, ids.start, ids.begin, ids.zero + ids.times, *ids.language_ids, *ids.special)
    if max(every) > context.labels:
        raise MayaError(
            f"the tokens of a canary head lie beyond its vocabulary of {context.labels}; keep the tokenizer "
            "of the model that it was made from (tokenizer.file)"
        )
