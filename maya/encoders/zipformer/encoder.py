"""Zipformer encoder (Yao et al. 2024, arXiv:2310.11230), parameter for parameter icefall's.

icefall's parameter names become ours by one rename: "encoder_embed." to "encoder.encoder_embed.".
"""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.conformer.dropout import dropout
from maya.encoders.lact.fast_weights import reset_fast_weights
from maya.encoders.zipformer.attention import (
    HIDDEN,
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    StackFrames,
    compact_positions,
)
from maya.encoders.zipformer.bias_norm import BiasNorm
from maya.encoders.zipformer.config import WHOLE, Chunking, ZipformerConfig, check, check_chunking
from maya.encoders.zipformer.front import LOST_FRAMES, REACH, Conv2dSubsampling, ConvNeXt
from maya.encoders.zipformer.layer import (
    Bypass,
    ChunkCausalConv,
    GatedConvolution,
    LayerCache,
    SwooshFeedForward,
    ZipformerLayer,
)
from maya.encoders.zipformer.regularizers import Controls, Number, Regulated, Schedule
from maya.encoders.zipformer.stack import Downsample, make_stack, with_channels
from maya.encoders.zipformer.streaming import ZipformerState, ZipformerStream
from maya.errors import MayaError
from maya.features.frames import frame_mask


class Zipformer(Regulated, Encoder, config=ZipformerConfig):
    """A convolutional front end, six stacks at 50, 25, 12.5, 6.25, 12.5 and 25 Hz, output at 25 Hz.

    In training each forward pass first draws its random decisions, from torch's CPU generator; under
    torch.compile call `draw` before each step. `set_batch_count` moves the schedules. The encoder can be
    built on the meta device; call `init_weights` after `to_empty`.
    """

    front = ("encoder_embed",)
    live: Any = None  # weights for streams on a CPU, see `live_weights`

    def __init__(self, cfg: ZipformerConfig) -> None:
        super().__init__()
        check(cfg)
        self.cfg = cfg
        drop: Number = Schedule((0, 0.3), (20000, 0.1)) if cfg.dropout is None else cfg.dropout
        self.encoder_embed = Conv2dSubsampling(
            cfg.feat_in, cfg.dims[0], drop, cfg.padding == "invariant", cfg.front_channels
        )
        self.encoders = nn.ModuleList(make_stack(cfg, i, drop) for i in range(len(cfg.layers)))
        self.downsample_output = Downsample(cfg.output_downsampling)
        self.chunking = WHOLE  # in evaluation
        self._drawn = WHOLE  # in training
        self.init_weights()
        self.controls = Controls(self)

    def init_weights(self) -> None:
        """As icefall: torch's defaults, smaller in the last layer of each residual branch."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d, BiasNorm)):
                module.reset_parameters()
        reset_fast_weights(self)
        for module in self.modules():
            if isinstance(module, Downsample):
                nn.init.zeros_(module.bias)
            elif isinstance(module, (Bypass, ZipformerLayer)):
                nn.init.constant_(module.bypass_scale, 0.5)
            elif isinstance(module, AttentionWeights):
                _scale_init(module.in_proj, module.query**-0.25)
                _scale_init(module.linear_pos, 0.05)
            elif isinstance(module, (SelfAttention, NonlinAttention, GatedConvolution)):
                _scale_init(module.out_proj, 0.05)
            elif isinstance(module, SwooshFeedForward):
                _scale_init(module.out_proj, 0.1)
            elif isinstance(module, ConvNeXt):
                _scale_init(module.pointwise_conv2, 0.01)
            elif isinstance(module, ChunkCausalConv):
                nn.init.zeros_(module.chunkwise_conv_scale)
                _scale_init(module.causal_conv, 1.0)

    def blocks(self) -> list[nn.Module]:
        return list(self.encoders)

    def forward(
        self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = (), chunking: Chunking | None = None
    ) -> Encoded:
        """Encode features.

        Args:
            x: (B, T, F) features; values beyond the lengths do not matter.
            x_lens: (B,) int64 frames, 0..T.
            hidden: numbers of blocks whose hidden states are returned too, see `Encoder.forward`. A block is
                a stack, and its hidden state has `cfg.dims[i]` channels, at the output's rate.
            chunking: for a causal encoder. None: drawn from the configuration in training; `self.chunking`
                in evaluation (by default the whole utterance).

        Returns:
            frames (B, S, D), zero at and beyond lens (B,) int64; S = ceil(((T - 7) // 2) / f), at least 1,
            with f = cfg.output_downsampling.
        """
        check_hidden(hidden, len(self.encoders))
        if self.training and not torch.compiler.is_compiling():
            self.draw()
        chunking = self._choose(chunking)
        shortest = LOST_FRAMES + 2
        if x.shape[1] < shortest:
            x = nn.functional.pad(x, (0, 0, 0, shortest - x.shape[1]))
        x, lens, _ = self.encoder_embed(x, x_lens)
        masks = self._feature_masks(x)
        outputs, embedded = [], x
        for index, stack in enumerate(self.encoders):
            x = with_channels(x, self.cfg.dims[index])
            span = self._span(x, lens, self.cfg.downsampling[index], chunking)
            x, _ = stack(x, self._fill(lens), span, masks[index])
            outputs.append(x)
        enc_lens = (lens + self.cfg.output_downsampling - 1) // self.cfg.output_downsampling

        def at_output_rate(y: Tensor) -> Tensor:
            y = self.downsample_output(y, self._fill(lens))
            return y * frame_mask(enc_lens, y.shape[1])[..., None].to(y.dtype)

        states = {number: at_output_rate([embedded, *outputs][number]) for number in hidden}
        return Encoded(at_output_rate(self._full_width(outputs)), enc_lens, states)

    def stream(
        self, batch: int, context: tuple[int, int] | None = None, *, padding_value: float = 0.0
    ) -> ZipformerStream:
        """`context`: 20 ms frames of left context and of a chunk. None: `self.chunking` if it is set, else
        the first limits of the configuration."""
        cfg, chunking = self.cfg, self.chunking
        if context is not None:
            chunking = Chunking(context[1], context[0])
        elif chunking.chunk < 1 or chunking.left_frames < 1:
            limits = (cfg.chunk_frames, cfg.left_context_frames)
            chunking = Chunking(*(next((n for n in choices if n > 0), -1) for choices in limits))
        return ZipformerStream(self, batch, chunking, padding_value=padding_value)

    def stream_step(self, x: Tensor, state: ZipformerState) -> tuple[Tensor, ZipformerState]:
        """Encode the next chunk of each sequence.

        Args:
            x: (B, 2 C + 13, F) features: a chunk of C 20 ms frames advances by 2 C feature frames and needs
            13
                more. C must be a multiple of every downsampling factor. Pad a shorter last chunk.
            state: from `initial_state` or from the previous chunk.

        Returns:
            enc (B, C / f, D), and the state for the next chunk. The frames equal those of `forward` for the
            whole utterance with `Chunking(C, left)`.
        """
        chunk = (x.shape[1] - LOST_FRAMES) // 2 - REACH
        coarsest = math.lcm(self.cfg.output_downsampling, *self.cfg.downsampling)
        if not self.cfg.causal or chunk < coarsest or chunk % coarsest:
            raise MayaError(
                f"streaming needs encoder.causal=true and 2 C + 13 feature frames with C a multiple of "
                f"{coarsest}, not encoder.causal={self.cfg.causal} and {x.shape[1]} feature frames"
            )
        lens = torch.full((x.shape[0],), x.shape[1], device=x.device)
        x, lens, front = self.encoder_embed(x, lens, state.front)
        outputs, caches, rest = [], [], list(state.layers)
        for index, stack in enumerate(self.encoders):
            x = with_channels(x, self.cfg.dims[index])
            own, rest = rest[: self.cfg.layers[index]], rest[self.cfg.layers[index] :]
            factor = self.cfg.downsampling[index]
            span = self._streaming_span(chunk // factor, own[0].key.shape[1], state.frames // factor)
            x, kept = stack(x, None, span, None, own)
            outputs.append(x)
            caches += kept
        x = self.downsample_output(self._full_width(outputs), None)
        return x, ZipformerState(front, tuple(caches), state.frames + chunk)

    def initial_state(self, batch: int, left_frames: int) -> ZipformerState:
        """The state of `batch` sequences before their first chunk. left_frames: context to keep, a multiple
        of the chunk."""
        cfg, like = self.cfg, self.downsample_output.bias
        if left_frames < 1 or any(left_frames % factor for factor in cfg.downsampling):
            raise MayaError(
                "the left context for streaming must be a multiple of encoder.downsampling, not "
                f"{left_frames} frames"
            )
        caches = []
        for index, count in enumerate(cfg.layers):
            width, heads, reach = cfg.dims[index], cfg.heads[index], cfg.conv_kernels[index] // 2
            kept = left_frames // cfg.downsampling[index]
            value = heads * cfg.value_head_dim
            shapes = [
                (kept, heads * cfg.query_head_dim),
                (kept, 3 * width // 4),
                (kept, value),
                (kept, value),
            ]
            shapes += [(reach, width)] * 2
            caches += [LayerCache(*(like.new_zeros(batch, *s) for s in shapes)) for _ in range(count)]
        frames = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return ZipformerState(self.encoder_embed.initial_left(batch), tuple(caches), frames)

    def draw(self, generator: torch.Generator | None = None) -> None:
        """Draw the random decisions of the next training step, with the chunks of a causal encoder."""
        super().draw(generator)
        cfg = self.cfg
        if cfg.causal:
            pick = torch.rand(2, generator=generator, device="cpu").tolist()
            chunk, left_frames = (
                choices[int(p * len(choices))]
                for p, choices in zip(pick, (cfg.chunk_frames, cfg.left_context_frames), strict=True)
            )
            self._drawn = WHOLE if chunk < 0 else Chunking(chunk, left_frames)

    def _choose(self, chunking: Chunking | None) -> Chunking:
        if chunking is None:
            return self._drawn if self.training else self.chunking
        check_chunking(self.cfg, chunking)
        return chunking

    def _span(self, x: Tensor, lens: Tensor, factor: int, chunking: Chunking) -> StackFrames:
        """The frames of a stack at 1 / `factor` of the frame rate of x (B, T, C)."""
        size = (x.shape[1] + factor - 1) // factor
        lens = (lens + factor - 1) // factor
        frame = torch.arange(size, device=x.device)
        valid = (frame < lens[:, None])[..., None]
        chunk = chunking.chunk // factor if chunking.chunk > 0 else -1
        hidden = None
        if chunk > 0:
            key = frame // chunk
            query = key[:, None]
            hidden = key > query
            if chunking.left_frames >= 0:
                hidden = hidden | (key < query - max(1, chunking.left_frames // chunking.chunk))
        if self.cfg.padding == "icefall" and not 0 < chunk <= size:
            chunk = size
        positions = self._positions(size, size, x.device)
        key_bias = torch.where(valid, 0.0, HIDDEN)
        return StackFrames(valid.float(), key_bias, positions, hidden, chunk, lens)

    def _streaming_span(self, size: int, left_frames: int, before: Tensor) -> StackFrames:
        """`size` frames, with up to `left_frames` of the `before` (B,) earlier ones as keys."""
        device, batch = before.device, before.shape[0]
        filled = torch.arange(-left_frames, size, device=device) >= -before[:, None]
        key_bias = torch.where(filled, 0.0, HIDDEN)[..., None]
        valid = torch.ones(batch, size, 1, device=device)
        positions = self._positions(size, left_frames + size, device)
        lens = torch.full((batch,), size, device=device)
        return StackFrames(valid, key_bias, positions, None, size, lens)

    def _positions(self, queries: int, keys: int, device: torch.device) -> Tensor:
        return dropout(compact_positions(queries, keys, self.cfg.pos_dim, device), 0.15, self.training)

    def _fill(self, lens: Tensor) -> Tensor | None:
        """Lengths for `Downsample` if it must ignore padding."""
        return lens if self.cfg.padding == "invariant" else None

    def _feature_masks(self, x: Tensor) -> list[Tensor | None]:
        """In training, (B, 1, C) for each stack: the upper channels are 0 in an eighth of the sequences, the
        uppermost in another eighth too, so that the lower channels learn to work alone."""
        cfg = self.cfg
        if not self.training:
            return [None] * len(cfg.dims)
        kept = torch.rand(2, len(x), 1, 1, device=x.device) > 0.125
        masks: list[Tensor | None] = []
        for width, low in zip(cfg.dims, cfg.unmasked_dims, strict=True):
            high = low + (width - low) // 2
            bands = (
                (low, torch.ones_like(kept[0])),
                (high - low, kept[0]),
                (width - high, kept[0] & kept[1]),
            )
            masks.append(torch.cat([band.expand(-1, -1, n) for n, band in bands], -1).to(x.dtype))
        return masks

    def _full_width(self, outputs: list[Tensor]) -> Tensor:
        """(B, T, max(dims)): each channel from the last stack that has it."""
        pieces, have = [outputs[-1]], outputs[-1].shape[-1]
        for output in reversed(outputs[:-1]):
            if output.shape[-1] > have:
                pieces.append(output[..., have:])
                have = output.shape[-1]
        return torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]


@torch.no_grad()
def _scale_init(layer: nn.Linear | nn.Conv1d | nn.Conv2d, scale: float) -> None:
    """A weight that is `scale` times torch's default, a bias uniform within a tenth of `scale`."""
    layer.weight.mul_(scale)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -0.1 * scale, 0.1 * scale)
