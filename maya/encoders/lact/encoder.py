"""LaCT encoder: layers with fast weights, which learn from each utterance, convolution and window attention
(large-chunk test-time training, Zhang et al. 2025, arXiv:2505.23884).

The cost grows linearly with the utterance. The state of a stream has a fixed size.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from maya.encoders.base import Encoded, check_hidden
from maya.encoders.conformer.attention import Frames
from maya.encoders.conformer.conformer_layer import ConformerLayer, ConvModule, checkpointed
from maya.encoders.conformer.dropout import Dropout, dropout
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.encoders.conformer.streaming import StreamingEncoder, needs_to_stream
from maya.encoders.conformer.subsampling import DepthwiseStridedSubsampling, init_front
from maya.encoders.lact.config import LaCTConfig, check
from maya.encoders.lact.fast_weights import reset_fast_weights
from maya.encoders.lact.mixer import FastWeightMixer, WindowAttention
from maya.encoders.lact.streaming import LaCTState, changing, weights_of
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.kernels.lact import FastWeights


@dataclass(slots=True)
class FastMemory:
    """A layer's fast weights: before, and after the layer has run.

    weights: None for the initial ones of the model. first (B,) int64: number of the first frame; None for 0.
    """

    weights: FastWeights | None
    first: Tensor | None = None


class LaCT(StreamingEncoder, config=LaCTConfig):
    """FastConformer's subsampling, then `LaCTLayer`s.

    It can be built on the meta device; call `init_weights` after `to_empty`. `cfg.update_at_test` can be
    changed at any time; with False the fast weights do not learn in evaluation.
    """

    adapts = True

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        check(cfg)
        self.cfg = cfg
        self.pre_encode = DepthwiseStridedSubsampling(
            cfg.feat_in,
            cfg.d_model,
            cfg.subsampling_factor,
            cfg.subsampling_channels,
            cfg.causal_downsampling,
        )
        self.layers = nn.ModuleList(LaCTLayer(cfg) for _ in range(cfg.n_layers))
        self.init_weights()

    def init_weights(self) -> None:
        """torch's defaults in the layers, FastConformer's front end; fast weights with rows of length about
        1."""
        for module in self.modules():
            if isinstance(
                module, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.LayerNorm, nn.RMSNorm, MaskedBatchNorm)
            ):
                module.reset_parameters()
        reset_fast_weights(self)
        init_front(self.pre_encode)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        """Encode features.

        Args:
            x: (B, T, F) features; values beyond the lengths do not matter.
            x_lens: (B,) int64 frames, 0..T.
            hidden: numbers of layers whose hidden states are returned too, see `Encoder.forward`.

        Returns:
            frames (B, S, D), zero at and beyond lens (B,) int64; S = T / factor, each halving rounded up.
        """
        return self.adapt(x, x_lens, hidden=hidden)[0]

    def adapt(
        self, x: Tensor, x_lens: Tensor, weights: Sequence[FastWeights] | None = None, *,
        rows: Tensor | None = None, hidden: Collection[int] = (),
    ) -> tuple[Encoded, tuple[FastWeights, ...]]:  # fmt: skip
        """`forward` that continues to learn after an earlier utterance of the same speakers.

        weights: the second result of the call for that utterance, None for the first utterance: the fast
        weights of each layer, a row for each of the B speakers or one row for all. rows (B,) int64: the row
        that each utterance continues. In training gradients pass through the weights to the earlier
        utterance, unless `cfg.detach_memory`.
        """
        check_hidden(hidden, self.cfg.n_layers)
        recompute = self.cfg.activation_checkpointing and torch.is_grad_enabled()
        x, lens, frames = self._front(x, x_lens)
        states, learnt = {0: x} if 0 in hidden else {}, list[FastWeights]()
        before: Sequence[FastWeights | None] = weights or [None] * self.cfg.n_layers
        for number, (layer, own) in enumerate(zip(self.layers, before, strict=True), 1):
            run = partial(_remembering, layer, frames=frames)
            start = _continued(own, len(x), rows)
            x, after = checkpointed(layer, x, start, run=run) if recompute else run(x, start)
            learnt.append(after.detach() if self.cfg.detach_memory else after)
            if number in hidden:
                states[number] = x
        encoded = Encoded(_masked(x, frames), lens, {n: _masked(y, frames) for n, y in states.items()})
        return encoded, tuple(learnt)

    def join_memories(self, memories: Sequence[Any]) -> tuple[FastWeights, ...]:
        joined = []
        for i, layer in enumerate(self.layers):
            start = layer.mixer.fast.initial(1)
            rows = [start if memory is None else memory[i] for memory in memories]
            joined.append(FastWeights(*map(_stacked, zip(*rows, strict=True))))  # type: ignore[arg-type]
        return tuple(joined)

    def split_memory(self, state: Sequence[FastWeights]) -> list[Any]:
        def row(layer: FastWeights, i: int) -> FastWeights:
            return FastWeights(*(None if w is None else w[i : i + 1].clone() for w in layer))  # type: ignore[arg-type]

        return [tuple(row(layer, i) for layer in state) for i in range(len(state[0].w0))]

    def _front(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor, Frames]:
        """Input (B, S, D) of the layers, its lengths (B,), and the `Frames` that the layers share."""
        x, lens = self.pre_encode(x, x_lens)
        x = dropout(x, self.cfg.dropout_pre_encoder, self.training)
        frames = Frames(
            valid=frame_mask(lens, x.shape[1]), positions=self.positions(0, x), span=self.cfg.span
        )
        return x, lens, frames

    def initial_state(self, batch: int, *, context: tuple[int, int] | None = None) -> LaCTState:
        """`batch` streams before their first piece. Raises MayaError with the reason for a model that cannot
        stream, and for another `context` than `cfg.window`."""
        cfg = self.cfg
        why = needs_to_stream(cfg)
        if why is None and cfg.order not in ("chunk_causal", "causal"):
            why = f"needs the whole utterance (encoder.order={cfg.order})"
        elif why is None and context is not None and context != cfg.window:
            why = f"was built for a context of {cfg.window} frames, not {context}"
        if why is not None:
            raise MayaError(
                f"this encoder cannot stream: it {why}; train one that can (maya.encoders.lact.config."
                "streaming), or transcribe whole files"
            )
        weight = self.pre_encode.out.weight
        past = self.pre_encode.overlap * cfg.subsampling_factor
        zeros = weight.new_zeros(batch, dtype=torch.long)
        branch = self.layers[0].mixer.fast
        heads, size = branch.w0.shape[0], branch.w0[0].numel()
        fast = branch.initial(1).w0.new_zeros(len(changing(cfg)), cfg.n_layers, batch, heads, size)
        return LaCTState(
            span=cfg.span,
            past=past,
            chunk=cfg.chunk,
            frames=zeros,
            features=weight.new_zeros(batch, past, cfg.feat_in),
            feature_lens=zeros + past,
            attention=weight.new_zeros(cfg.n_layers, batch, max(0, cfg.window[0]), cfg.d_model),
            attention_lens=zeros,
            convolution=weight.new_zeros(cfg.n_layers, batch, cfg.d_model, cfg.conv_kernel - 1),
            fast=fast,
            learnt=zeros.bool(),
        )

    def memories(self, state: LaCTState) -> list[Any]:
        return [
            FastMemory(weights_of(layer.mixer.fast, state.fast[:, index], state.learnt), state.frames)
            for index, layer in enumerate(self.layers)
        ]

    def remember(self, state: LaCTState, memories: list[Any], counts: Tensor) -> LaCTState:
        names, learnt = changing(self.cfg), state.learnt | (counts > 0)
        layers = [torch.stack([getattr(m.weights, name).flatten(2) for name in names]) for m in memories]
        fast = torch.stack(layers, dim=1).masked_fill(~learnt[:, None, None], 0.0)
        return replace(state, fast=fast, learnt=learnt)


def _remembering(
    layer: nn.Module, x: Tensor, weights: FastWeights | None, frames: Frames
) -> tuple[Tensor, FastWeights]:
    """The layer from these fast weights: its output, and its fast weights after it."""
    memory = FastMemory(weights)
    y = layer(x, frames, memory)
    assert memory.weights is not None
    return y, memory.weights


def _continued(weights: FastWeights | None, count: int, rows: Tensor | None) -> FastWeights | None:
    """`rows` of the weights, or weights of one row expanded to `count` without a copy, or all of them."""
    if weights is None:
        return None
    chosen = (
        None if w is None else w.expand(count, *w.shape[1:]) if rows is None else w.index_select(0, rows)
        for w in weights
    )  # fmt: skip
    return FastWeights(*chosen)  # type: ignore[arg-type]


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Matrices (1, ...) of rows as one; None is no momentum yet, which is zero."""
    like = next((x for x in parts if x is not None), None)
    return None if like is None else torch.cat([torch.zeros_like(like) if x is None else x for x in parts])


def _masked(x: Tensor, frames: Frames) -> Tensor:
    return x * frames.valid[..., None].to(x.dtype)


class LaCTLayer(ConformerLayer):
    """A conformer layer with window attention and fast weights, which share q, k and v."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        width = cfg.d_model
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = feed_forward(cfg)
        self.norm_mixer = nn.LayerNorm(width)
        attention = WindowAttention(cfg.n_heads, rotary=cfg.rotary, dropout=cfg.dropout_att)
        self.mixer = FastWeightMixer(width, cfg, bias=cfg.use_bias, qk_norm=cfg.qk_norm, attention=attention)
        self.norm_conv = nn.LayerNorm(width)
        self.conv = ConvModule(cfg)
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = feed_forward(cfg)
        self.norm_out = nn.LayerNorm(width)
        self.dropout = Dropout(cfg.dropout)

    def mix(self, x: Tensor, frames: Frames, memory: FastMemory | None = None) -> Tensor:
        memory = memory or FastMemory(None)
        y, memory.weights = self.mixer.mix(self.norm_mixer(x), frames.valid, frames.span, memory.weights)
        return y

    def mix_step(
        self, x: Tensor, cache: Tensor, frames: Frames, memory: FastMemory | None = None
    ) -> tuple[Tensor, Tensor]:
        memory, inputs = memory or FastMemory(None), torch.cat([cache, self.norm_mixer(x)], dim=1)
        y, memory.weights = self.mixer.mix(
            inputs, frames.valid, frames.span, memory.weights, memory.first, before=cache.shape[1]
        )
        return y, inputs


def feed_forward(cfg: LaCTConfig) -> nn.Sequential:
    """Linear, SiLU, dropout, linear."""
    return nn.Sequential(
        nn.Linear(cfg.d_model, cfg.ff_dim, bias=cfg.use_bias),
        nn.SiLU(),
        Dropout(cfg.dropout),
        nn.Linear(cfg.ff_dim, cfg.d_model, bias=cfg.use_bias),
    )
