"""ECAPA-TDNN: dilated convolutions with squeeze and excitation, whose outputs are joined at the end."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.encoders.ecapa.config import EcapaConfig
from maya.errors import MayaError
from maya.features.frames import frame_mask


@dataclass(frozen=True, slots=True)
class RowEnds:
    """Where each row ends. lens: (B,), at least 1: a row without a frame counts as one zero. valid: (B, T)
    bool."""

    lens: Tensor
    valid: Tensor


class EcapaConv(nn.Module):
    """Convolution over time, ReLU, batch norm where `norm` asks for it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, dilation: int, padding: Literal["reflect", "zeros"],
        norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.norm = MaskedBatchNorm(outputs) if norm else None
        self.reach, self.padding = dilation * (kernel - 1) // 2, padding

    def forward(self, x: Tensor, ends: RowEnds) -> Tensor:
        """x (B, T, D) → (B, T, outputs); what lies beyond the ends does not matter."""
        if self.reach == 0:
            x = F.linear(x, self.conv.weight[:, :, 0], self.conv.bias)
        else:
            x = self.conv(self._padded(x, ends).transpose(1, 2)).transpose(1, 2)
        x = x.relu()
        return x if self.norm is None else self.norm(x, ends.valid)

    def _padded(self, x: Tensor, ends: RowEnds) -> Tensor:
        """(B, T + 2 · reach, D). Each row is reflected at its own end, not where the batch is padded."""
        if self.padding == "zeros":
            return F.pad(x * ends.valid[..., None], (0, 0, self.reach, self.reach))
        steps = torch.arange(self.reach, device=x.device)
        last = ends.lens[:, None] - 1
        before, after = (self.reach - steps).minimum(last), (last - 1 - steps).clamp(min=0)
        begin, end = (x.gather(1, _wide(index, x)) for index in (before, after))
        out = torch.cat([begin, x, torch.zeros_like(end)], 1)
        return out.scatter(1, _wide(self.reach + ends.lens[:, None] + steps, x), end)


class Res2Conv(nn.Module):
    """A convolution for each chunk of channels but one, which also reads the output of the chunk before."""

    def __init__(self, cfg: EcapaConfig, dilation: int) -> None:
        super().__init__()
        self.scale, self.untouched = cfg.scale, cfg.untouched
        width = cfg.channels // cfg.scale
        self.convs = nn.ModuleList(
            EcapaConv(width, width, cfg.kernel, dilation, cfg.padding) for _ in range(max(1, cfg.scale - 1))
        )

    def forward(self, x: Tensor, ends: RowEnds) -> Tensor:
        """x (B, T, C) → (B, T, C)."""
        chunks = list(x.chunk(self.scale, -1))
        spare = [] if self.scale == 1 else [chunks.pop(0 if self.untouched == "first" else -1)]
        out: list[Tensor] = []
        for chunk, conv in zip(chunks, self.convs, strict=True):
            out.append(conv(chunk + out[-1] if out else chunk, ends))
        return torch.cat(spare + out if self.untouched == "first" else out + spare, -1)


class EcapaBlock(nn.Module):
    """1×1 convolution, Res2 convolution, 1×1 convolution, squeeze and excitation; the input is added."""

    def __init__(self, cfg: EcapaConfig, dilation: int) -> None:
        super().__init__()
        self.before = EcapaConv(cfg.channels, cfg.channels, 1, 1, cfg.padding)
        self.res2 = Res2Conv(cfg, dilation)
        self.after = EcapaConv(cfg.channels, cfg.channels, 1, 1, cfg.padding)
        self.squeeze = nn.Linear(cfg.channels, cfg.se_channels)
        self.excite = nn.Linear(cfg.se_channels, cfg.channels)

    def forward(self, x: Tensor, ends: RowEnds) -> Tensor:
        """x (B, T, C) → (B, T, C)."""
        y = self.after(self.res2(self.before(x, ends), ends), ends)
        mean = (y * ends.valid[..., None]).sum(1) / ends.lens[:, None].to(y.dtype)
        return x + y * self.excite(self.squeeze(mean).relu()).sigmoid()[:, None]


class EcapaEncoder(Encoder, config=EcapaConfig):
    """Features (B, T, F) → frames (B, T, d_model). Statistics of its batch norms leave padding out."""

    front = ("input",)

    def __init__(self, cfg: EcapaConfig) -> None:
        super().__init__()
        if cfg.channels % cfg.scale:
            raise MayaError(f"{cfg.channels} channels cannot be cut into {cfg.scale} chunks: change one")
        self.cfg = cfg
        self.input = EcapaConv(cfg.feat_in, cfg.channels, cfg.first_kernel, 1, cfg.padding)
        self.layers = nn.ModuleList(EcapaBlock(cfg, dilation) for dilation in cfg.dilations)
        width = cfg.channels * len(cfg.dilations)
        self.mfa = EcapaConv(width, cfg.d_model, 1, 1, cfg.padding, norm=cfg.mfa_norm)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        seen = frame_mask(x_lens, x.shape[1])[..., None]
        ends = RowEnds(x_lens.clamp(min=1), frame_mask(x_lens.clamp(min=1), x.shape[1]))
        x = x.masked_fill(~seen, 0.0)
        if self.cfg.subtract_mean:
            x = x - x.sum(1, keepdim=True) / ends.lens[:, None, None].to(x.dtype)
        states = [self.input(x.to(self.input.conv.weight.dtype), ends)]
        for layer in self.layers:
            states.append(layer(states[-1], ends))
        frames = self.mfa(torch.cat(states[1:], -1), ends) * seen
        return Encoded(frames, x_lens, {number: states[number] * seen for number in hidden})


def _wide(index: Tensor, x: Tensor) -> Tensor:
    """index (B, n) of frames → (B, n, D), for all channels."""
    return index[..., None].expand(-1, -1, x.shape[-1])
