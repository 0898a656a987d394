"""ResNet34 over spectrograms, an encoder of voices: wespeaker's, up to the pooling (He et al. 2015,
arXiv:1512.03385, with few channels, a small first kernel and no max pooling)."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.encoders.base import Encoded, Encoder, EncoderConfig
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.ranges import PosInt


@config
class ResNetConfig(EncoderConfig):
    """channels: of the first stage; each later one has twice as many, half the frequencies and half the
    frames. stages: blocks of each. subtract_mean: of the features, over the utterance."""

    traceless = ("subtract_mean",)

    kind: Literal["resnet"] = "resnet"
    feat_in: PosInt = 80
    channels: PosInt = 32
    stages: tuple[PosInt, ...] = (3, 4, 6, 3)
    subtract_mean: bool = True

    @property
    def d_model(self) -> int:
        """Channels times frequencies of the last stage, channel by channel."""
        halvings = len(self.stages) - 1
        return self.channels * 2**halvings * -(-self.feat_in // 2**halvings)

    @property
    def subsampling_factor(self) -> int:
        """8 for four stages."""
        return 2 ** (len(self.stages) - 1)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Empty: the stages have other frame rates than the output."""
        return ()


class PlaneNorm(MaskedBatchNorm):
    """Batch norm of (B, C, F, T) whose training statistics leave padding out."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """valid (B, T) bool."""
        rows = x.permute(0, 2, 3, 1)  # (B, F, T, C): a view, where the convolution wrote channels last
        used = valid[:, None].expand(-1, x.shape[2], -1)
        return super().forward(rows.flatten(1, 2), used.flatten(1)).view(rows.shape).permute(0, 3, 1, 2)


class PlaneBlock(nn.Module):
    """Two 3×3 convolutions, each with batch norm; the input is added. stride: of frequencies and frames."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = PlaneNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = PlaneNorm(outputs)
        self.shortcut: nn.ModuleList | None = None
        if stride != (1, 1) or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.ModuleList([conv, PlaneNorm(outputs)])

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """x (B, C, F, T), zero beyond lens (B,) → the same, with the lengths after the stride."""
        y = self.conv1(x)
        valid = frame_mask(lens, y.shape[-1])
        y = self.norm1(y, valid).relu() * valid[:, None, None]
        y = self.norm2(self.conv2(y), valid)
        if self.shortcut is not None:
            conv, norm = self.shortcut
            x = norm(conv(x), valid)
        return (y + x).relu() * valid[:, None, None]


def stage(inputs: int, outputs: int, blocks: int, stride: tuple[int, int]) -> nn.ModuleList:
    """Blocks of which the first has the stride."""
    rest = (PlaneBlock(outputs, outputs, (1, 1)) for _ in range(blocks - 1))
    return nn.ModuleList([PlaneBlock(inputs, outputs, stride), *rest])


def plane_of(x: Tensor, lens: Tensor, subtract_mean: bool) -> Tensor:
    """Features (B, T, F) → (B, 1, F, T), zero beyond lens (B,), without their mean where asked."""
    seen = frame_mask(lens, x.shape[1])[..., None]
    x = x.masked_fill(~seen, 0.0)
    if subtract_mean:
        x = (x - x.sum(1, keepdim=True) / lens.clamp(min=1)[:, None, None].to(x.dtype)) * seen
    return x.transpose(1, 2)[:, None]


class ResNetEncoder(Encoder, config=ResNetConfig):
    """Features (B, T, F) → frames (B, T / 8, d_model)."""

    front = ("conv", "norm")

    def __init__(self, cfg: ResNetConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.conv = nn.Conv2d(1, cfg.channels, 3, padding=1, bias=False)
        self.norm = PlaneNorm(cfg.channels)
        widths = [cfg.channels * 2**number for number in range(len(cfg.stages))]
        self.stages = nn.ModuleList(
            stage(inputs, outputs, blocks, (1, 1) if number == 0 else (2, 2))
            for number, (inputs, outputs, blocks) in enumerate(
                zip([cfg.channels, *widths], widths, cfg.stages, strict=False)
            )
        )

    def blocks(self) -> list[nn.Module]:
        return [block for part in self.stages for block in part.children()]

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        if hidden:
            raise MayaError("a resnet gives no hidden states: its stages have other frame rates")
        lens, weight = x_lens, self.conv.weight
        x = plane_of(x, lens, self.cfg.subtract_mean).to(weight.dtype)
        valid = frame_mask(lens, x.shape[-1])
        x = self.norm(self.conv(x), valid).relu() * valid[:, None, None]
        x = x.contiguous(memory_format=torch.channels_last)
        for number, blocks in enumerate(self.stages):
            lens = lens if number == 0 else -(-lens // 2)
            for block in blocks.children():
                x = block(x, lens)
        return Encoded(x.permute(0, 3, 1, 2).flatten(2), x_lens if len(self.stages) == 1 else lens)
