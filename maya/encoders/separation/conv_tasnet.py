"""Conv-TasNet: masks by a stack of dilated convolutions over a learnt filterbank."""

from collections.abc import Collection
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, EncoderStream, check_hidden
from maya.encoders.separation.config import ConvTasNetConfig
from maya.encoders.separation.filterbank import valid_frames
from maya.encoders.separation.norms import SeparationNorm
from maya.errors import MayaError
from maya.kernels import host


class ConvBlock(nn.Module):
    """1×1 convolution, PReLU, norm, depthwise dilated convolution, PReLU, norm; then a residual and a skip
    output. The children are named as in torchaudio. last: without the residual, which nothing reads."""

    def __init__(self, cfg: ConvTasNetConfig, dilation: int, *, last: bool) -> None:
        super().__init__()
        depthwise = nn.Conv1d(cfg.hidden, cfg.hidden, cfg.conv_kernel, dilation=dilation, groups=cfg.hidden)
        self.conv_layers = nn.ModuleList([
            nn.Conv1d(cfg.bottleneck, cfg.hidden, 1), nn.PReLU(), SeparationNorm(cfg.hidden, cfg.norm),
            depthwise, nn.PReLU(), SeparationNorm(cfg.hidden, cfg.norm),
        ])  # fmt: skip
        self.res_out = None if last else nn.Conv1d(cfg.hidden, cfg.bottleneck, 1)
        self.skip_out = nn.Conv1d(cfg.hidden, cfg.skip, 1)
        self.reach = (cfg.conv_kernel - 1) * dilation
        self.causal = cfg.causal

    def forward(
        self, x: Tensor, valid: Tensor | None, past: "BlockPast | None" = None
    ) -> tuple[Tensor | None, Tensor]:
        """x (B, bottleneck, S), valid (B, 1, S) bool or None → residual of the same shape, skip (B, skip, S).
        past: of a stream, moved on in place."""
        widen, first_act, first_norm, depthwise, second_act, second_norm = self.conv_layers
        y = first_norm(first_act(widen(x)), valid, past and past.first)
        y = y if valid is None else y * valid
        if past is not None:
            y = torch.cat([past.frames, y], 2)
            past.frames = y[:, :, y.shape[2] - self.reach :]
        else:
            y = F.pad(y, (self.reach, 0) if self.causal else (self.reach // 2, self.reach // 2))
        y = second_norm(second_act(depthwise(y)), valid, past and past.second)
        return None if self.res_out is None else self.res_out(y), self.skip_out(y)


class MaskGenerator(nn.Module):
    """Frames (B, N, S) → masks (B, sources · N, S)."""

    def __init__(self, cfg: ConvTasNetConfig) -> None:
        super().__init__()
        self.activation = cfg.mask_activation
        self.input_norm = SeparationNorm(cfg.filters, cfg.norm)
        self.input_conv = nn.Conv1d(cfg.filters, cfg.bottleneck, 1)
        count = cfg.stacks * cfg.layers
        self.conv_layers = nn.ModuleList(
            ConvBlock(cfg, 2 ** (i % cfg.layers), last=i == count - 1) for i in range(count)
        )
        self.output_prelu = nn.PReLU()
        self.output_conv = nn.Conv1d(cfg.skip, cfg.d_model, 1)

    def forward(self, frames: Tensor, valid: Tensor | None, past: "TasNetPast | None" = None) -> Tensor:
        x = self.input_conv(self.input_norm(frames, valid, past and past.input))
        total: Tensor | None = None
        for i, block in enumerate(self.conv_layers):
            residual, skip = block(x, valid, past and past.blocks[i])
            x = x if residual is None else x + residual
            total = skip if total is None else total + skip
        masks = self.output_conv(self.output_prelu(total))
        return masks.sigmoid() if self.activation == "sigmoid" else masks.relu()


class ConvTasNet(Encoder, config=ConvTasNetConfig):
    """Waveform (B, N, 1) → masked frames (B, S, sources · filters), which a separation head makes audio."""

    def __init__(self, cfg: ConvTasNetConfig) -> None:
        super().__init__()
        if cfg.causal and cfg.norm == "global":
            raise MayaError(
                "a causal Conv-TasNet cannot normalise over the whole utterance: set norm=cumulative"
            )
        self.cfg, self.framing = cfg, cfg.framing
        self.encoder = nn.Conv1d(1, cfg.filters, cfg.kernel_size, stride=cfg.stride, bias=False)
        self.mask_generator = MaskGenerator(cfg)

    def blocks(self) -> list[nn.Module]:
        return list(self.mask_generator.conv_layers)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, -1)
        lens = self.subsampled_lens(x_lens)
        frames = self.analyse(self.framing.pad_audio(x[:, :, 0]))
        is_full = host.reads_freely(lens) and bool((lens == frames.shape[2]).all())
        valid = None if is_full else valid_frames(lens, frames.shape[2])
        return Encoded(self.masked(frames, valid), lens)

    def analyse(self, audio: Tensor) -> Tensor:
        """audio (B, 1, n), padded → frames (B, filters, S)."""
        frames = self.encoder(audio.to(self.encoder.weight.dtype))
        return frames.relu() if self.cfg.encoder_activation == "relu" else frames

    def masked(self, frames: Tensor, valid: Tensor | None, past: "TasNetPast | None" = None) -> Tensor:
        """frames (B, filters, S) → (B, S, sources · filters), zero where not valid."""
        masks = self.mask_generator(frames, valid, past)
        out = masks * frames.repeat(1, self.cfg.sources, 1)
        return (out if valid is None else out * valid).transpose(1, 2)

    def stream(
        self, batch: int, context: tuple[int, int] | None = None, *, padding_value: float = 0.0
    ) -> "ConvTasNetStream":
        if not self.cfg.causal:
            raise MayaError("this Conv-TasNet is not causal and cannot stream; separate whole files")
        return ConvTasNetStream(self, batch)


class BlockPast:
    """What a block keeps of B streams: inputs of the depthwise convolution, and sums of both norms."""

    def __init__(self, block: ConvBlock, batch: int) -> None:
        weight = block.skip_out.weight
        self.frames = weight.new_zeros(batch, weight.shape[1], block.reach)
        self.first, self.second = (weight.new_zeros(batch, 3, dtype=torch.float64) for _ in range(2))


class TasNetPast:
    """What a Conv-TasNet keeps of B streams."""

    def __init__(self, model: MaskGenerator, batch: int) -> None:
        self.input = model.input_conv.weight.new_zeros(batch, 3, dtype=torch.float64)
        self.blocks = [BlockPast(cast(ConvBlock, block), batch) for block in model.conv_layers]


class ConvTasNetStream(EncoderStream):
    """B streams of a causal Conv-TasNet. Its state has a fixed size. The frames equal those of the whole
    audio; a frame comes with its last sample."""

    def __init__(self, model: ConvTasNet, batch: int) -> None:
        self.model, self.framing, self.count, self.made = model, model.framing, 0, 0
        self.past = TasNetPast(model.mask_generator, batch)
        self.waiting = model.encoder.weight.new_zeros(batch, self.framing.pad)

    def describe(self) -> str:
        return f"possible, with a delay of {self.framing.kernel} samples"

    def push(self, feats: Tensor, final: bool = False, *, same_speaker: bool = False) -> Encoded:
        """feats (B, t, 1), the next samples → the frames (B, S, D) that they complete."""
        stride, kernel = self.framing.stride, self.framing.kernel
        self.count += feats.shape[1]
        audio = torch.cat([self.waiting, feats[:, :, 0].to(self.waiting.dtype)], 1)
        frames = max(0, (audio.shape[1] - kernel) // stride + 1)
        if final:
            frames = max(0, self.framing.frames(self.count) - self.made)
            audio = F.pad(audio, (0, max(0, (frames - 1) * stride + kernel - audio.shape[1])))
        lens = torch.full((len(audio),), frames, device=audio.device)
        self.waiting = audio[:, frames * stride :]
        self.made += frames
        if not frames:
            return Encoded(audio.new_zeros(len(audio), 0, self.model.cfg.d_model), lens)
        x = self.model.analyse(audio[:, None, : (frames - 1) * stride + kernel])
        return Encoded(self.model.masked(x, None, self.past), lens)
