"""CAM++, an encoder of voices: a convolution over the spectrogram, then densely connected layers of a TDNN
with masks by context (Wang et al. 2023, arXiv:2303.00332), as wespeaker and 3D-Speaker have it."""

from collections.abc import Collection
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.encoders.base import Encoded, Encoder, EncoderConfig, check_hidden
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.encoders.resnet import PlaneNorm, plane_of, stage
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.ranges import OddInt, PosInt


@config
class CamConfig(EncoderConfig):
    """front_channels: of the convolutions over the spectrogram. channels: of the first TDNN layer. layers,
    dilations: of each dense block, whose layers add `growth` channels each; behind a block the channels are
    halved. bottleneck: of a layer, times growth. segment: frames of the context that a mask sees, besides
    all. subtract_mean: of the features, over the utterance."""

    traceless = ("dilations", "segment", "subtract_mean")

    kind: Literal["campplus"] = "campplus"
    feat_in: PosInt = 80
    front_channels: PosInt = 32
    channels: PosInt = 128
    layers: tuple[PosInt, ...] = (12, 24, 16)
    dilations: tuple[PosInt, ...] = (1, 2, 2)
    kernel: OddInt = 3
    growth: PosInt = 32
    bottleneck: PosInt = 4
    segment: PosInt = 100
    subtract_mean: bool = True

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        dims = [self.channels]
        for layers in self.layers:
            dims.append((dims[-1] + layers * self.growth) // 2)
        return tuple(dims)

    @property
    def d_model(self) -> int:
        """Channels behind the last dense block."""
        return self.hidden_dims[-1]

    @property
    def subsampling_factor(self) -> int:
        return 2


class CamLayer(nn.Module):
    """Norm, 1×1 convolution, norm, and a dilated convolution, times a mask that follows from means."""

    def __init__(self, cfg: CamConfig, inputs: int, dilation: int) -> None:
        super().__init__()
        width = cfg.bottleneck * cfg.growth
        self.segment = cfg.segment
        self.norm1, self.narrow = MaskedBatchNorm(inputs), nn.Linear(inputs, width, bias=False)
        self.norm2 = MaskedBatchNorm(width)
        reach = dilation * (cfg.kernel - 1) // 2
        self.local = nn.Conv1d(
            width, cfg.growth, cfg.kernel, padding=reach, dilation=dilation, bias=False
        )  # fmt: skip
        self.squeeze, self.excite = nn.Linear(width, width // 2), nn.Linear(width // 2, cfg.growth)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, inputs), valid (B, T) bool → (B, T, growth)."""
        x = self.narrow(self.norm1(x, valid).relu())
        x = self.norm2(x, valid).relu() * valid[..., None]
        local = self.local(x.transpose(1, 2)).transpose(1, 2)
        return local * self.excite(self.squeeze(self._context(x, valid)).relu()).sigmoid()

    def _context(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, D) the mean of the utterance plus that of the segment of each frame."""
        size, frames = self.segment, x.shape[1]
        pad = -frames % size
        sums = F.pad(x, (0, 0, 0, pad)).unflatten(1, (-1, size)).sum(2)
        counts = F.pad(valid.to(x.dtype), (0, pad)).unflatten(1, (-1, size)).sum(2)[..., None]
        means = sums / counts.clamp(min=1)
        whole = sums.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)
        return (means + whole).repeat_interleave(size, 1)[:, :frames]


class CamBlock(nn.Module):
    """Layers that each read all outputs before them; then norm and a 1×1 convolution to half the channels."""

    def __init__(self, cfg: CamConfig, inputs: int, layers: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CamLayer(cfg, inputs + number * cfg.growth, dilation) for number in range(layers)
        )
        width = inputs + layers * cfg.growth
        self.norm, self.narrow = MaskedBatchNorm(width), nn.Linear(width, width // 2, bias=False)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, inputs) → (B, T, (inputs + layers · growth) / 2)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x, valid)], -1)
        return self.narrow(self.norm(x, valid).relu())


class PlaneFront(nn.Module):
    """Convolutions over the spectrogram that keep the frames and leave an eighth of the frequencies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, channels, 3, padding=1, bias=False), PlaneNorm(channels)
        self.stages = nn.ModuleList(stage(channels, channels, 2, (2, 1)) for _ in range(2))
        self.conv2 = nn.Conv2d(channels, channels, 3, (2, 1), padding=1, bias=False)
        self.norm2 = PlaneNorm(channels)

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """x (B, 1, F, T), zero beyond lens → (B, channels · F / 8, T), zero beyond lens too."""
        valid = frame_mask(lens, x.shape[-1])
        x = self.norm1(self.conv1(x), valid).relu() * valid[:, None, None]
        for blocks in self.stages:
            for block in blocks.children():
                x = block(x, lens)
        x = self.norm2(self.conv2(x), valid).relu() * valid[:, None, None]
        return x.flatten(1, 2)


class CamEncoder(Encoder, config=CamConfig):
    """Features (B, T, F) → frames (B, T / 2, d_model)."""

    front = ("plane", "input", "norm")

    def __init__(self, cfg: CamConfig) -> None:
        super().__init__()
        if len(cfg.layers) != len(cfg.dilations):
            raise MayaError(
                f"{len(cfg.layers)} dense blocks have {len(cfg.dilations)} dilations: give one for each"
            )
        self.cfg = cfg
        self.plane = PlaneFront(cfg.front_channels)
        rows = -(-cfg.feat_in // 8)
        self.input = nn.Conv1d(cfg.front_channels * rows, cfg.channels, 5, stride=2, padding=2, bias=False)
        self.norm = MaskedBatchNorm(cfg.channels)
        self.layers = nn.ModuleList(
            CamBlock(cfg, inputs, layers, dilation)
            for inputs, layers, dilation in zip(cfg.hidden_dims, cfg.layers, cfg.dilations, strict=False)
        )
        self.last_norm = MaskedBatchNorm(cfg.d_model)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        x = plane_of(x, x_lens, self.cfg.subtract_mean).to(self.input.weight.dtype)
        x = self.input(self.plane(x, x_lens)).transpose(1, 2)
        lens = self.subsampled_lens(x_lens)
        valid = frame_mask(lens, x.shape[1])
        states = [self.norm(x, valid).relu()]
        for layer in self.layers:
            states.append(layer(states[-1], valid))
        seen = valid[..., None]
        frames = self.last_norm(states[-1], valid).relu() * seen
        return Encoded(frames, lens, {number: states[number] * seen for number in hidden})
