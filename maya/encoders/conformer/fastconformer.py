"""FastConformer encoder (Rekesh et al. 2023, arXiv:2305.05084), parameter for parameter NeMo's `encoder`.

With encoder.subsampling=striding it is the Conformer (Gulati et al. 2020, arXiv:2005.08100) of NeMo.
"""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from maya.encoders.base import Encoded, check_hidden
from maya.encoders.conformer import in_place
from maya.encoders.conformer.attention import (
    ChunkContext,
    Context,
    Frames,
    RelPositionAttention,
    positions_needed,
    relative_sinusoids,
    span_of,
)
from maya.encoders.conformer.config import FastConformerConfig, check
from maya.encoders.conformer.conformer_layer import ConformerLayer, ConvModule, FeedForward, checkpointed
from maya.encoders.conformer.dropout import Dropout, dropout
from maya.encoders.conformer.global_tokens import GlobalTokenAttention
from maya.encoders.conformer.masked_norm import MaskedBatchNorm, same_on_all_ranks
from maya.encoders.conformer.packed_rows import Rows, rows_to_pack
from maya.encoders.conformer.streaming import StreamingEncoder, StreamState, needs_to_stream
from maya.encoders.conformer.subsampling import DepthwiseStridedSubsampling, init_front
from maya.encoders.lact.fast_weights import reset_fast_weights
from maya.encoders.lact.mixer import FastWeightMixer
from maya.errors import MayaError
from maya.features.frames import frame_mask


class FastConformer(StreamingEncoder, config=FastConformerConfig):
    """Subsampling, then conformer layers with relative-position attention.

    A strict `load_state_dict` takes NeMo's weights once "encoder." is stripped. May be built on the meta
    device: the only state that is not a parameter or buffer, the position table, is made on first use.

    `context`, a pair as in `att_context_size`, replaces the configured one in evaluation where it is not
    None: (128, 128) lets a model that was trained on whole utterances take hours of audio.
    """

    def __init__(self, cfg: FastConformerConfig) -> None:
        super().__init__()
        check(cfg)
        self.cfg = cfg
        self.quick_layers = cfg.fast_weights is None
        self.packs = True  # see `_packed`; not where the layers are compiled
        self.context: Context | None = None
        self.pre_encode = DepthwiseStridedSubsampling(
            cfg.feat_in,
            cfg.d_model,
            cfg.subsampling_factor,
            cfg.subsampling_channels,
            cfg.causal_downsampling,
            cfg.subsampling,
        )
        layers = [FastConformerLayer(cfg) for _ in range(cfg.n_layers)]
        if not cfg.untie_biases:
            self.pos_bias_u, self.pos_bias_v = layers[0].self_attn.position_biases
            for layer in layers:
                layer.self_attn.position_biases = self.pos_bias_u, self.pos_bias_v
        self.layers = nn.ModuleList(layers)
        if hidden := cfg.output_hidden:
            parts = nn.Linear(cfg.d_model, hidden), nn.ReLU(), nn.Linear(hidden, cfg.d_model)
            self.output_layer = nn.Sequential(*parts)
        self._positions: Tensor | None = None
        self.init_weights()

    def init_weights(self) -> None:
        """Inside the layers torch's defaults (which is what NeMo trains from), position biases zero; in front
        of them weights that keep the variance (He et al. 2015, arXiv:1502.01852), biases zero.

        With torch's defaults the subsampling hands on 0.01 of variation over time on top of 0.06 that does
        not vary, and a model spends hundreds of steps on finding the speech in it. Call this after `to_empty`
        when the encoder was built on the meta device.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.LayerNorm, MaskedBatchNorm)):
                module.reset_parameters()
            elif isinstance(module, RelPositionAttention):
                nn.init.zeros_(module.pos_bias_u)
                nn.init.zeros_(module.pos_bias_v)
        reset_fast_weights(self)
        init_front(self.pre_encode)
        if self.cfg.xscaling:  # unit variance enters the layers either way
            with torch.no_grad():
                self.pre_encode.out.weight.div_(math.sqrt(self.cfg.d_model))

    def forward(
        self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = (),
        context: Context | ChunkContext | None = None,
    ) -> Encoded:  # fmt: skip
        """Encode features.

        Args:
            x: (B, T, F) features, zero beyond their lengths or not.
            x_lens: (B,) int64 frames, 0..T.
            hidden: numbers of layers whose hidden states are returned too, see `Encoder.forward`.
            context: frames seen to the left and right, -1 for all, or those before, in and after a chunk;
                None for the configured ones.

        Returns:
            frames (B, S, D), zero at and beyond lens (B,) int64; S = T / factor, each halving rounded up.
        """
        check_hidden(hidden, self.cfg.n_layers)
        span = span_of(self._choose_context(context), self.cfg.att_context_style)
        x, lens = self.pre_encode(x, x_lens)
        size = x.shape[1]
        rows = self._packed(lens, size)
        valid, longest = frame_mask(lens, size), size
        if rows is not None:
            x, valid, longest = rows.pack(x), rows.valid(x.device), max(rows.lens)
        x = dropout(self.scaled(x), self.cfg.dropout_pre_encoder, self.training)
        reach = max(span.reach) if self.cfg.global_tokens else positions_needed(span, longest)
        positions = dropout(self.positions(reach, x), self.cfg.dropout_emb, self.training)
        frames = Frames(valid=valid, positions=positions, span=span, rows=rows)
        x, states = self._run_layers(x, frames, hidden)

        def unpadded(y: Tensor) -> Tensor:
            if rows is not None:
                return rows.unpack(y, size)
            kept = valid[..., None].to(y.dtype)
            return y.mul_(kept) if in_place.takes_blocks(self.layers, y) else y * kept

        return Encoded(unpadded(self.last(x)), lens, {number: unpadded(y) for number, y in states.items()})

    def initial_state(self, batch: int, *, context: Context | None = None) -> StreamState:
        """`batch` streams before their first piece, looking ahead as `context` or the first configured.

        Raises MayaError for a model that cannot stream, naming what prevents it.
        """
        cfg = self.cfg
        context = context or self.context or cfg.att_context_size[0]
        left_frames, right = context
        why = needs_to_stream(cfg)
        if why is not None:
            pass
        elif right == -1 or (right > 0 and cfg.att_context_style != "chunked_limited"):
            why = f"waits for frames to come (att_context_size {context}, style {cfg.att_context_style})"
        elif cfg.global_tokens:
            why = "has global tokens, which see the whole utterance"
        elif cfg.fast_weights is not None:
            why = "has fast weights in the place of attention, whose stream is that of the LaCT encoder"
        if why is not None:
            raise MayaError(
                f"this encoder cannot stream: it {why}; train it so from the start, or transcribe whole files"
            )
        weight = self.pre_encode.out.weight
        past = self.pre_encode.overlap * cfg.subsampling_factor
        zeros = weight.new_zeros(batch, dtype=torch.long)
        return StreamState(
            span=span_of(context, cfg.att_context_style),
            past=past,
            frames=zeros,
            features=weight.new_zeros(batch, past, cfg.feat_in),
            feature_lens=zeros + past,
            attention=weight.new_zeros(cfg.n_layers, batch, max(0, left_frames), 2 * cfg.d_model),
            attention_lens=zeros,
            convolution=weight.new_zeros(cfg.n_layers, batch, cfg.d_model, cfg.conv_kernel - 1),
        )

    def scaled(self, x: Tensor) -> Tensor:
        """Subsampled frames as they enter the layers; of long audio `x` itself is changed."""
        if not self.cfg.xscaling:
            return x
        factor = math.sqrt(self.cfg.d_model)
        return x.mul_(factor) if in_place.takes_blocks(self.layers, x) else x * factor

    def last(self, x: Tensor) -> Tensor:
        return self.output_layer(x) if self.cfg.output_hidden else x

    def positions(self, reach: int, x: Tensor) -> Tensor:
        """(2 * reach + 1, D) sinusoids of the relative positions reach .. -reach, type and device of `x`."""
        table = self._positions
        if table is None or table.device != x.device or table.shape[0] < 2 * reach + 1:
            # A table first made for inference must serve training later.
            with torch.inference_mode(False):
                table = relative_sinusoids(max(reach, 511), self.cfg.d_model, x.device)
            self._positions = table
        middle = table.shape[0] // 2
        return table[middle - reach : middle + reach + 1].to(x.dtype)

    def _run_layers(
        self, x: Tensor, frames: Frames, hidden: Collection[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The output of the layers, and the hidden states by number."""
        cfg, states = self.cfg, {}
        blocks = in_place.takes_blocks(self.layers, x)
        if blocks and torch.is_autocast_enabled(x.device.type):
            x = x.float()  # under autocast a layer's output is fp32 whatever its input is
        if 0 in hidden:
            states[0] = x.clone() if blocks else x
        drops = [cfg.layer_drop * n / cfg.n_layers * self.training for n in range(1, cfg.n_layers + 1)]
        skipped = self._skipped(drops, x.device)
        for number, (layer, drop) in enumerate(zip(self.layers, drops, strict=True), 1):
            if blocks:
                in_place.run_layer(layer, x, frames)
            elif skipped[number - 1]:
                x = _touch(x, layer)
            else:
                x = self._run_layer(layer, x, frames, drop)
            if number in hidden:
                states[number] = x.clone() if blocks else x
        return x, states

    def _skipped(self, drops: list[float], device: torch.device) -> list[bool]:
        """Which layers this forward pass skips, each with its probability in `drops`.

        Drawn on the host, so that skipping costs no device synchronisation on one process. Batch statistics
        are taken over all ranks, and a rank that skipped a layer would be missing there: then all ranks skip
        the same layers.
        """
        if not any(drops):
            return [False] * len(drops)
        draws = torch.stack([torch.rand((), device="cpu") for _ in drops])
        if self.cfg.conv_norm == "batch_norm":
            draws = same_on_all_ranks(draws, device)
        return [draw < drop for draw, drop in zip(draws.tolist(), drops, strict=True)]

    def _run_layer(self, layer: nn.Module, x: Tensor, frames: Frames, drop: float) -> Tensor:
        """A layer that training skips with probability `drop`, in a pass that does not skip it."""
        recompute = self.cfg.activation_checkpointing and torch.is_grad_enabled()
        y = checkpointed(layer, x, frames) if recompute else layer(x, frames)
        return x + (y - x) / (1 - drop) if drop else y

    def _choose_context(self, context: Context | ChunkContext | None) -> Context | ChunkContext:
        choices = self.cfg.att_context_size
        if context is not None:
            return context
        if self.training and len(choices) > 1:
            # On the host too, and of torch's generator, whose state a checkpoint holds.
            chances = torch.tensor(self.cfg.att_context_probs or [1.0] * len(choices), device="cpu")
            return choices[int(torch.multinomial(chances, 1))]
        return choices[0] if self.training or self.context is None else self.context

    def _packed(self, lens: Tensor, size: int) -> Rows | None:
        """How to lay the batch out without padding, where that is worth it and batch statistics do not count
        the padding."""
        cfg = self.cfg
        counts_padding = self.training and cfg.conv_norm == "batch_norm" and not cfg.masked_norm
        if not self.packs or cfg.global_tokens or counts_padding:
            return None
        gap = cfg.conv_kernel - 1 if cfg.conv_context == "causal" else cfg.conv_kernel // 2
        return rows_to_pack(lens, size, gap, max_without=2 * in_place.BLOCK_FRAMES)


class FastConformerLayer(ConformerLayer):
    """A conformer layer with relative-position attention, or with fast weights in its place."""

    def __init__(self, cfg: FastConformerConfig) -> None:
        super().__init__()
        self.norm_feed_forward1 = nn.LayerNorm(cfg.d_model)
        self.feed_forward1 = FeedForward(cfg)
        self.norm_conv = nn.LayerNorm(cfg.d_model)
        self.conv = ConvModule(cfg)
        self.norm_self_att = nn.LayerNorm(cfg.d_model)
        self.self_attn: Any = attention_of(cfg)
        self.norm_feed_forward2 = nn.LayerNorm(cfg.d_model)
        self.feed_forward2 = FeedForward(cfg)
        self.norm_out = nn.LayerNorm(cfg.d_model)
        self.dropout = Dropout(cfg.dropout)

    def mix(self, x: Tensor, frames: Frames, memory: Any = None) -> Tensor:
        return self.self_attn(self.norm_self_att(x), frames)

    def mix_step(self, x: Tensor, cache: Tensor, frames: Frames, memory: Any = None) -> tuple[Tensor, Tensor]:
        return self.self_attn.stream(self.norm_self_att(x), cache, frames)


def attention_of(cfg: FastConformerConfig) -> RelPositionAttention | FastWeightMixer:
    """The attention module that the configuration asks for, or what stands in its place."""
    if cfg.fast_weights is not None:
        return FastWeightMixer(cfg.d_model, cfg.fast_weights, bias=cfg.use_bias)
    if cfg.global_tokens == 0:
        return RelPositionAttention(cfg.d_model, cfg.n_heads, bias=cfg.use_bias, dropout=cfg.dropout_att)
    return GlobalTokenAttention(
        cfg.d_model,
        cfg.n_heads,
        bias=cfg.use_bias,
        dropout=cfg.dropout_att,
        tokens=cfg.global_tokens,
        spacing=cfg.global_tokens_spacing,
        separate=cfg.global_attn_separate,
    )


def _touch(x: Tensor, layer: nn.Module) -> Tensor:
    """`x` itself, with `layer`'s parameters in its graph: DDP waits for a gradient from each, here zero."""
    corners = torch.stack([p.flatten()[:1].sum() for p in layer.parameters()])
    return x + (corners * 0).sum().to(x.dtype)
