"""Zipformer's front end: 10 ms feature frames in, 20 ms frames out (Yao et al. 2024, arXiv:2310.11230)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.zipformer.bias_norm import BiasNorm
from maya.encoders.zipformer.config import LOST_FRAMES
from maya.encoders.zipformer.regularizers import (
    Balancer,
    Number,
    Schedule,
    Whiten,
    scale_grad,
    sequence_mask,
    shared_dropout_mask,
)
from maya.encoders.zipformer.swoosh import swoosh_l, swoosh_r
from maya.features.frames import frame_mask

REACH = 3  # frames to each side that ConvNeXt's depthwise convolution looks at


class Conv2dSubsampling(nn.Module):
    """Three 3x3 convolutions of stride 1, 2 and (1, 2), a ConvNeXt layer, a linear layer, BiasNorm.

    There is no padding in time: T feature frames become (T - 7) // 2. Parameters are named as icefall's
    `encoder_embed`: conv.0, conv.4, conv.7, convnext, out, out_norm. Activations are channels last.
    """

    def __init__(
        self,
        feat_in: int,
        d_model: int,
        dropout: Number,
        mask_padding: bool,
        channels: tuple[int, int, int] = (8, 32, 128),
    ) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        first, second, third = channels
        self.conv = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, first, 3, padding=(0, 1)),
                "4": nn.Conv2d(first, second, 3, stride=2),
                "7": nn.Conv2d(second, third, 3, stride=(1, 2)),
            }
        )
        self.balancers = nn.ModuleDict(
            {"0": Balancer(max_abs=1.0), "4": Balancer(max_abs=4.0), "7": Balancer(max_abs=4.0)}
        )
        self.convnext = ConvNeXt(third)
        self.channels, self.bins = third, (feat_in - 3) // 4
        self.out = nn.Linear(third * self.bins, d_model)
        self.out_whiten = Whiten(1, Schedule((0, 4.0), (20000, 8.0)), grad_scale=0.02)
        self.out_norm = BiasNorm(d_model)
        self.dropout = dropout

    def forward(self, x: Tensor, lens: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, F), (B,) feature frames -> (B, T', D), (B,), and the `past` of the next chunk.

        T' = (T - 7) // 2. `past` (B, 3, F', C) holds the previous chunk's last frames before ConvNeXt. With
        it, the last 3 frames of this chunk are look-ahead only, and T' is 3 less.
        """
        lens = ((lens - LOST_FRAMES) // 2).clamp(min=0)
        # icefall flattens channel-major; it is cheaper to transpose the weight than the frames.
        weight = self.out.weight.view(-1, self.channels, self.bins).transpose(1, 2).flatten(1)
        parts = []
        for rows in self._parts(x, past):
            y, carried = self._convolve(x[rows], lens[rows], past)
            parts.append(F.linear(y.flatten(2), weight, self.out.bias))
        x = self.out_norm(self.out_whiten(torch.cat(parts) if len(parts) > 1 else parts[0]))
        if past is not None:
            lens = (lens - REACH).clamp(min=0)
        if self.training:
            mask = shared_dropout_mask(x, self.dropout)
            x = x if mask is None else x * mask
        return x, lens, carried

    def _parts(self, x: Tensor, past: Tensor | None) -> list[slice]:
        """The batch in parts, on a CPU: so many rows that their widest tensor has 8 MB, at least one. The
        batch stays whole where a regularizer needs its statistics.

        The widest tensor of 10 s has 14 MB. glibc takes fresh pages for each allocation above 32 MB.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return [slice(None)]
        regularized = self.training and any(
            m.switch.on for m in self.modules() if isinstance(m, (Balancer, Whiten))
        )
        if x.device.type != "cpu" or regularized or past is not None:
            return [slice(None)]
        widest = 3 * self.channels * self.bins * max(1, x.shape[1] // 2)  # of ConvNeXt's hidden layer
        step = max(1, (1 << 21) // widest)
        return [slice(row, row + step) for row in range(0, len(x), step)] or [slice(None)]

    def _convolve(self, x: Tensor, lens: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) 20 ms frames -> (B, T', F', C), and the frames that ConvNeXt needs as `past`."""
        # Permuted from (B, T, F, 1), the strides are channels last, and all later layers keep that layout.
        x = x.unsqueeze(-1).permute(0, 3, 1, 2)
        for name, conv in self.conv.items():
            x = conv(x)
            if name == "0" and self.training:
                x = scale_grad(x, 0.2)  # or fp16 gradients of its weight overflow
            x = swoosh_r(self.balancers[name](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = x.permute(0, 2, 3, 1)
        if self.mask_padding and past is None:
            assert lens is not None
            x = x.masked_fill(~frame_mask(lens, x.shape[1])[:, :, None, None], 0.0)
        return self.convnext(x, past), x[:, x.shape[1] - 2 * REACH : x.shape[1] - REACH]

    def initial_left(self, batch: int) -> Tensor:
        """`past` of the first chunk: (B, 3, F', C) zeros."""
        return self.out.weight.new_zeros(batch, REACH, self.bins, self.channels)


class ConvNeXt(nn.Module):
    """Depthwise 7x7, pointwise, SwooshL, pointwise, residual (after Liu et al. 2022, arXiv:2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_drop = Schedule((0, 0.2), (20000, 0.015))
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=REACH, groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, 3 * channels, 1)
        self.hidden_balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.pointwise_conv2 = nn.Conv2d(3 * channels, channels, 1)
        self.out_balancer = Balancer(0.4, 0.6, 1.0, 6.0)
        self.out_whiten = Whiten(1, 5.0, grad_scale=0.01)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """(B, T, F, C) -> (B, T, F, C), or (B, T - 3, F, C) with `past` (B, 3, F, C) before it."""
        conv, padding = self.depthwise_conv, (REACH, REACH)
        y = x
        if past is not None:
            y, padding, x = torch.cat([past, x], 1), (0, REACH), x[:, :-REACH]
        y = F.conv2d(y.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=padding, groups=conv.groups)
        first, second = self.pointwise_conv1, self.pointwise_conv2
        y = F.linear(y.permute(0, 2, 3, 1), first.weight[:, :, 0, 0], first.bias)
        y = swoosh_l.linear(self.hidden_balancer(y), second.weight[:, :, 0, 0], second.bias)
        mask = sequence_mask(y.flatten(2), self.layer_drop) if self.training else None
        x = x + y if mask is None else torch.addcmul(x, y, mask[..., None])
        return self.out_whiten(self.out_balancer(x))
