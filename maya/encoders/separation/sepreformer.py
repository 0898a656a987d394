"""SepReformer: a U-Net over the frames of a filterbank that splits the speakers at its bottom and then
rebuilds each of them with shared weights."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.encoders.separation.config import SepReformerConfig
from maya.encoders.separation.filterbank import valid_frames
from maya.encoders.separation.focused_attention import FocusedLinearAttention
from maya.encoders.separation.norms import SeparationNorm
from maya.errors import MayaError

_LAYER_SCALE = 1e-5


@dataclass(frozen=True, slots=True)
class Valid:
    """The valid frames of rows. lens: (B,). mask: (B, S, 1), 1 on valid frames, in the type of the frames."""

    lens: Tensor
    mask: Tensor

    @classmethod
    def of(cls, lens: Tensor, x: Tensor) -> "Valid":
        return cls(lens, valid_frames(lens, x.shape[1]).transpose(1, 2).to(x.dtype))

    def halved(self) -> "Valid":
        """Of every second frame."""
        return Valid((self.lens + 1) // 2, self.mask[:, ::2])

    def each(self, sources: int) -> "Valid":
        """Of rows that hold the sources of each row one after another."""
        return Valid(self.lens.repeat_interleave(sources), self.mask.repeat_interleave(sources, 0))


class Scaled(nn.Module):
    """The base of residual blocks: x + scale · forward(x), the scale learnt for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scale = nn.Parameter(torch.full((channels,), _LAYER_SCALE))


class GatedFeedForward(Scaled):
    """Six times as wide, with a depthwise convolution and a gate (GCFN)."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__(cfg.channels)
        wide = 6 * cfg.channels
        self.widen, self.narrow = nn.Linear(cfg.channels, wide), nn.Linear(wide // 2, cfg.channels)
        self.depthwise = nn.Conv1d(wide, wide, 3, padding=1, groups=wide)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, valid: Valid) -> Tensor:
        y = over_time(self.depthwise, self.widen(self.norm(x)) * valid.mask)
        return x + self.scale * self.dropout(self.narrow(self.dropout(F.glu(y))))


class GlobalBlock(Scaled):
    """Attention over all frames behind a gate, then a feed-forward block (EGA; the attention is linear, so it
    is over all frames and not over averages of them)."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__(cfg.channels)
        self.attention = FocusedLinearAttention(cfg.channels, cfg.heads, cfg.power)
        self.gate = nn.Linear(cfg.channels, cfg.channels)
        self.dropout = nn.Dropout(cfg.dropout)
        self.feed_forward = GatedFeedForward(cfg)

    def forward(self, x: Tensor, valid: Valid) -> Tensor:
        y = self.norm(x)
        attended = self.scale * self.dropout(self.attention(y, valid.mask))
        return self.feed_forward(x + self.gate(y).sigmoid() * attended, valid)


class LocalBlock(Scaled):
    """A wide depthwise convolution behind a gate, then a feed-forward block (CLA)."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__(cfg.channels)
        size = cfg.channels
        self.gated, self.widen, self.narrow = (
            nn.Linear(a, b) for a, b in ((size, 2 * size),) * 2 + ((2 * size, size),)
        )
        self.depthwise = nn.Conv1d(size, size, cfg.local_kernel, padding=cfg.local_kernel // 2, groups=size)
        self.batch_norm = MaskedBatchNorm(2 * size)
        self.dropout = nn.Dropout(cfg.dropout)
        self.feed_forward = GatedFeedForward(cfg)

    def forward(self, x: Tensor, valid: Valid) -> Tensor:
        y = over_time(self.depthwise, F.glu(self.gated(self.norm(x))) * valid.mask)
        y = self.batch_norm(self.widen(y), valid.mask[..., 0] > 0)
        x = x + self.scale * self.dropout(self.narrow(F.gelu(y)))
        return self.feed_forward(x, valid)


class SpeakerBlock(Scaled):
    """Attention between the sources of each frame, then a feed-forward block."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__(cfg.channels)
        self.sources, self.heads = cfg.sources, cfg.heads
        self.qkv, self.out = nn.Linear(cfg.channels, 3 * cfg.channels), nn.Linear(cfg.channels, cfg.channels)
        self.dropout = nn.Dropout(cfg.dropout)
        self.feed_forward = GatedFeedForward(cfg)

    def forward(self, x: Tensor, valid: Valid) -> Tensor:
        """x (B · sources, S, C)."""
        frames = self.qkv(self.norm(x)).unflatten(0, (-1, self.sources)).transpose(1, 2)  # (B, S, K, 3C)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(2, 3) for t in frames.chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3)
        y = self.dropout(self.out(y.transpose(1, 2).flatten(0, 1)))
        return self.feed_forward(x + self.scale * y, valid)


class Halving(nn.Module):
    """Every second frame, by a depthwise convolution."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(cfg.channels, cfg.channels, 5, stride=2, padding=2, groups=cfg.channels)
        self.batch_norm = MaskedBatchNorm(cfg.channels)

    def forward(self, x: Tensor, valid: Valid) -> tuple[Tensor, Valid]:
        half = valid.halved()
        y = over_time(self.depthwise, x * valid.mask)
        return F.gelu(self.batch_norm(y, half.mask[..., 0] > 0)), half


class SpeakerSplit(nn.Module):
    """(B, S, C) → (B · sources, S, C)."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__()
        self.sources = cfg.sources
        self.widen = nn.Linear(cfg.channels, 4 * cfg.channels * cfg.sources)
        self.narrow = nn.Linear(2 * cfg.channels * cfg.sources, cfg.channels * cfg.sources)
        self.norm = SeparationNorm(cfg.channels)

    def forward(self, x: Tensor, valid: Valid) -> Tensor:
        y = self.narrow(F.glu(self.widen(x))).unflatten(-1, (self.sources, -1))
        y = y.permute(0, 2, 3, 1).flatten(0, 1)  # (B · sources, C, S)
        return self.norm(y, valid.each(self.sources).mask.transpose(1, 2)).transpose(1, 2)


class SepReformer(Encoder, config=SepReformerConfig):
    """Waveform (B, N, 1) → masked frames (B, S, sources · filters), which a separation head makes audio.

    hidden: layer i is the masked frames from the decoder before its stage i, for auxiliary losses."""

    def __init__(self, cfg: SepReformerConfig) -> None:
        super().__init__()
        if cfg.channels % cfg.heads:
            raise MayaError(f"{cfg.channels} channels cannot be split into {cfg.heads} heads: change one")
        self.cfg, self.framing = cfg, cfg.framing
        self.encoder = nn.Conv1d(1, cfg.filters, cfg.kernel_size, stride=cfg.stride, bias=False)
        self.input_norm = SeparationNorm(cfg.filters)
        self.input = nn.Linear(cfg.filters, cfg.channels, bias=False)
        pair, trio = (GlobalBlock, LocalBlock), (GlobalBlock, LocalBlock, SpeakerBlock)
        self.down = nn.ModuleList(stage_of(cfg, pair * cfg.encoder_blocks) for _ in range(cfg.stages + 1))
        self.halve = nn.ModuleList(Halving(cfg) for _ in range(cfg.stages))
        self.split = nn.ModuleList(SpeakerSplit(cfg) for _ in range(cfg.stages + 1))
        self.fuse = nn.ModuleList(nn.Linear(2 * cfg.channels, cfg.channels) for _ in range(cfg.stages))
        self.up = nn.ModuleList(stage_of(cfg, trio * cfg.decoder_blocks) for _ in range(cfg.stages))
        self.masks = nn.ModuleList(
            nn.Sequential(nn.Linear(cfg.channels, 4 * cfg.channels), nn.GLU(),
                          nn.Linear(2 * cfg.channels, cfg.filters), nn.ReLU())
            for _ in range(cfg.stages + 1)
        )  # fmt: skip

    def blocks(self) -> list[nn.Module]:
        return [*self.down, *self.up]

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, self.cfg.stages - 1)
        lens = self.subsampled_lens(x_lens)
        audio = self.framing.pad_audio(x[:, :, 0]).to(self.encoder.weight.dtype)
        frames = F.gelu(self.encoder(audio))
        y = self.input_norm(frames, valid_frames(lens, frames.shape[2])).transpose(1, 2)
        frames = frames.transpose(1, 2)
        levels = [Valid.of(lens, frames)]
        y, skips = self.input(y), []
        for number, stage in enumerate(self.down):
            y = run(stage, y, levels[-1])
            skips.append(self.split[number](y, levels[-1]))
            if number < self.cfg.stages:
                y, half = self.halve[number](y, levels[-1])
                levels.append(half)
        y, stages = skips.pop(), {}
        for number, (fuse, stage) in enumerate(zip(self.fuse, self.up, strict=True)):
            if number in hidden:
                stages[number] = self._masked(self.masks[number], y, frames, levels[0])
            skip, level = skips.pop(), levels[self.cfg.stages - 1 - number].each(self.cfg.sources)
            y = stretched(y, skip.shape[1])
            y = run(stage, fuse(torch.cat([y, skip], -1)), level)
        return Encoded(self._masked(self.masks[-1], y, frames, levels[0]), lens, stages)

    def _masked(self, masks: nn.Module, y: Tensor, frames: Tensor, valid: Valid) -> Tensor:
        """y (B · sources, s, C), frames (B, S, filters) → (B, S, sources · filters)."""
        rows = masks(stretched(y, frames.shape[1])).unflatten(0, (-1, self.cfg.sources))
        return (rows * frames[:, None]).transpose(1, 2).flatten(2) * valid.mask


def stage_of(
    cfg: SepReformerConfig, blocks: Collection[Callable[[SepReformerConfig], Scaled]]
) -> nn.ModuleList:
    return nn.ModuleList(block(cfg) for block in blocks)


def run(stage: nn.Module, x: Tensor, valid: Valid) -> Tensor:
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        x = block(x, valid)
    return x


def over_time(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of (B, S, C)."""
    return conv(x.transpose(1, 2)).transpose(1, 2)


def stretched(x: Tensor, size: int) -> Tensor:
    """(R, s, C) with each frame repeated, up to `size` frames."""
    factor = 1
    while x.shape[1] * factor < size:
        factor *= 2
    return x.repeat_interleave(factor, 1)[:, :size]
