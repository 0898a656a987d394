"""The joint network by its definition, all logits at once: the truth for the fused forms."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from maya.kernels.checks import Transcripts
from maya.kernels.joint.dropout import dropout_scale
from maya.kernels.joint.rows import JointSettings, OutputLayer, RowList
from maya.kernels.precision import compute_dtype


def joint_logits(
    f: Tensor, g: Tensor, layer: OutputLayer, transcripts: Transcripts, settings: JointSettings
) -> tuple[Tensor, Tensor | None]:
    """Token logits (B, S, U+1, V) and duration logits (B, S, U+1, D) or None, in fp32 or wider;
    differentiable.

    f (B, S, H) and g (B, U+1, H) past a row's T frames and U labels count as 0: they may hold nan.
    """
    f = _without_padding(f, transcripts.frames)
    g = _without_padding(g, [u + 1 for u in transcripts.labels])
    (batch, size, hidden), width = f.shape, g.shape[1]
    h = getattr(torch, settings.activation)(f[:, :, None] + g[:, None])
    if settings.dropout > 0:
        cell = torch.arange(batch * size * width, device=f.device)
        frame = cell // width
        state = frame // size * width + cell % width
        rows = RowList(frame // size, frame, state, label=torch.full_like(cell, -1))
        h = h * dropout_scale(rows, hidden, settings, h.dtype).view_as(h)
    tokens = _linear(h, layer.weight, layer.bias)
    if layer.duration_weight is None:
        return tokens, None
    return tokens, _linear(h, layer.duration_weight, layer.duration_bias)


def _without_padding(x: Tensor, lens: list[int]) -> Tensor:
    used = torch.arange(x.shape[1], device=x.device) < torch.tensor(lens, device=x.device)[:, None]
    return torch.where(used[..., None], x, 0.0)


def _linear(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = linear(h, weight.to(h.dtype), None if bias is None else bias.to(h.dtype))
    return out.to(compute_dtype(h.dtype))
