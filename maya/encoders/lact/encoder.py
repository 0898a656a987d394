"""LaCT encoder: layers whose fast weights learn from the utterance while they read it, beside convolution and
attention over a window (large-chunk test-time training, Zhang et al. 2025, arXiv:2505.23884).

Cost grows linearly with the utterance, and what a stream has to remember does not grow.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maya.encoders.base import Encoded, Encoder
from maya.encoders.conformer.attention import Frames
from maya.encoders.conformer.dropout import Dropout, dropout
from maya.encoders.conformer.fastconformer import ConvModule, init_front
from maya.encoders.conformer.masked_norm import MaskedBatchNorm, untracked_statistics
from maya.encoders.conformer.streaming import stream
from maya.encoders.conformer.subsampling import DepthwiseStridedSubsampling
from maya.encoders.lact.config import LaCTConfig, check
from maya.encoders.lact.fast_weights import reset_fast_weights
from maya.encoders.lact.mixer import FastWeightMixer, WindowAttention
from maya.encoders.lact.streaming import LaCTState, initial_state, through_layers
from maya.kernels.lact import FastWeights


class LaCT(Encoder, config=LaCTConfig):
    """FastConformer's subsampling, then `LaCTLayer`s.

    May be built on the meta device; call `init_weights` after `to_empty`. `cfg.update_at_test` may be changed
    at any time: False shows what an utterance sounds like to a model that learns nothing from it.
    """

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
        self.layers: Any = nn.ModuleList(LaCTLayer(cfg) for _ in range(cfg.n_layers))
        self.init_weights()

    def init_weights(self) -> None:
        """As FastConformer's, torch's defaults in the layers; fast weights with rows of length about 1."""
        for module in self.modules():
            if isinstance(
                module, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.LayerNorm, nn.RMSNorm, MaskedBatchNorm)
            ):
                module.reset_parameters()
        reset_fast_weights(self)
        init_front(self.pre_encode)

    def subsampled_lens(self, lens: Tensor) -> Tensor:
        """Encoder frames for `lens` (...,) int64 feature frames."""
        return self.pre_encode.subsampled_lens(lens)

    def forward(self, x: Tensor, x_lens: Tensor) -> Encoded:
        """Encode features.

        Args:
            x: (B, T, F) features, zero beyond their lengths or not.
            x_lens: (B,) int64 frames, 0..T.

        Returns:
            enc (B, S, D), zero at and beyond enc_lens (B,) int64; S = T / factor, each halving rounded up.
        """
        x, lens, frames = self._front(x, x_lens)
        for layer in self.layers:
            if self.cfg.activation_checkpointing and torch.is_grad_enabled():
                contexts = partial(_contexts, layer)
                x = checkpoint(layer, x, frames, use_reentrant=False, context_fn=contexts)
            else:
                x = layer(x, frames)
        return Encoded(x * frames.valid[..., None].to(x.dtype), lens)

    def adapt(
        self, x: Tensor, x_lens: Tensor, weights: Sequence[FastWeights] | None = None
    ) -> tuple[Tensor, Tensor, tuple[FastWeights, ...]]:
        """`forward` that goes on learning where an earlier utterance of the same speakers left off.

        `weights` is what the call for that utterance returned third, None for the first one: the fast weights
        of each layer, a row for each of the B speakers. Activation checkpointing is not used.
        """
        x, lens, frames = self._front(x, x_lens)
        learnt = []
        for index, layer in enumerate(self.layers):
            x, after = layer.run(x, frames, None if weights is None else weights[index])
            learnt.append(after)
        return x * frames.valid[..., None].to(x.dtype), lens, tuple(learnt)

    def _front(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor, Frames]:
        """Frames (B, S, D) as they enter the layers, their numbers (B,), and what the layers share."""
        x, lens = self.pre_encode(x, x_lens)
        valid = torch.arange(x.shape[1], device=x.device) < lens[:, None]
        x = dropout(x, self.cfg.dropout_pre_encoder, self.training)
        return x, lens, Frames(valid=valid, positions=x.new_empty(0), span=self.cfg.span)

    def scaled(self, x: Tensor) -> Tensor:
        """Subsampled frames as they enter the layers: as they are."""
        return x

    def initial_state(self, batch: int, *, context: tuple[int, int] | None = None) -> LaCTState:
        """`batch` streams before their first piece. Raises MayaError for a model that cannot stream, naming
        what stands in the way, and for a `context`, which only attention over whole utterances can change."""
        return initial_state(self, batch, context)

    def stream(
        self,
        chunk: Tensor,
        chunk_lens: Tensor,
        state: LaCTState,
        *,
        final: Tensor | None = None,
        keep: Tensor | bool = False,
    ) -> tuple[Tensor, Tensor, LaCTState]:
        """Encode the next pieces of B streams, in evaluation mode; together equal to `forward` of the whole.

        Args:
            chunk: (B, T, F) the next features of each stream, T >= 0 as it comes.
            chunk_lens: (B,) int64, how many of them are there; 0 for a stream that pauses.
            state: from `initial_state`, then from the call before.
            final: (B,) bool, streams that end with this piece. They give out what was held back, and stand
                at a start afterwards, ready for another utterance.
            keep: (B,) bool or one for all: of streams that end, those whose next utterance is of the same
                speaker. It begins with the fast weights and momentum that this one has learnt.

        Returns:
            enc (B, S, D), zero at and beyond enc_lens (B,) int64; the new state. Frames come out in whole
            chunks of `cfg.chunk`.
        """

        def restart(state: LaCTState, rows: Tensor) -> LaCTState:
            kept = rows & keep
            return state.next_utterance(kept).reset(rows & ~kept)

        return stream(self, chunk, chunk_lens, state, final, layers=through_layers, restart=restart)


class LaCTLayer(nn.Module):
    """Half feed-forward, attention beside fast weights, convolution, half feed-forward, each on a residual
    branch; final norm."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        width = cfg.d_model
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = feed_forward(cfg)
        self.norm_mixer = nn.LayerNorm(width)
        attention = WindowAttention(cfg.n_heads, rotary=cfg.rotary, dropout=cfg.dropout_att)
        self.mixer = FastWeightMixer(width, cfg, bias=cfg.use_bias, qk_norm=cfg.qk_norm, attention=attention)
        self.norm_conv = nn.LayerNorm(width)
        self.conv = ConvModule(cfg.conformer)
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = feed_forward(cfg)
        self.norm_out = nn.LayerNorm(width)
        self.dropout = Dropout(cfg.dropout)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self.run(x, frames)[0]

    def run(
        self, x: Tensor, frames: Frames, weights: FastWeights | None = None
    ) -> tuple[Tensor, FastWeights]:
        """The same from given fast weights on, and those after."""
        x = torch.add(x, self.dropout(self.feed_forward1(self.norm_feed_forward1(x))), alpha=0.5)
        y, after = self.mixer.mix(self.norm_mixer(x), frames.valid, frames.span, weights)
        x = x + self.dropout(y)
        x = x + self.dropout(self.conv(self.norm_conv(x), frames.valid))
        x = torch.add(x, self.dropout(self.feed_forward2(self.norm_feed_forward2(x))), alpha=0.5)
        return self.norm_out(x), after


def feed_forward(cfg: LaCTConfig) -> nn.Sequential:
    """Linear, SiLU, dropout, linear."""
    return nn.Sequential(
        nn.Linear(cfg.d_model, cfg.ff_dim, bias=cfg.use_bias),
        nn.SiLU(),
        Dropout(cfg.dropout),
        nn.Linear(cfg.ff_dim, cfg.d_model, bias=cfg.use_bias),
    )


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the first forward pass of a checkpointed layer, and for the one repeated in the backward pass."""
    return nullcontext(), untracked_statistics(layer)
