"""The joint network by its definition, all logits at once: the truth for the fused forms."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from maya.kernels.joint.dropout import dropout_scale
from maya.kernels.joint.rows import JointSettings, OutputLayer, RowList


def joint_logits(
    f: Tensor, g: Tensor, layer: OutputLayer, frames: list[int], labels: list[int], settings: JointSettings
) -> tuple[Tensor, Tensor | None]:
    """Token logits (B, S, U+1, V) and duration logits (B, S, U+1, D) or None; differentiable.

    f (B, S, H) and g (B, U+1, H) past a row's T frames and U labels count as 0: they may hold nan.
    """
    f, g = _without_padding(f, frames), _without_padding(g, [u + 1 for u in labels])
    (batch, size, hidden), width = f.shape, g.shape[1]
    h = getattr(torch, settings.activation)(f[:, :, None] + g[:, None])
    if settings.dropout > 0:
        cell = torch.arange(batch * size * width, device=f.device)
        frame = cell // width
        state = frame // size * width + cell % width
        rows = RowList(frame // size, frame, state, label=torch.full_like(cell, -1))
        h = h * dropout_scale(rows, hidden, settings, h.dtype).view_as(h)
    tokens = linear(h, *_in_dtype(layer.weight, layer.bias, h.dtype))
    if layer.duration_weight is None:
        return tokens, None
    return tokens, linear(h, *_in_dtype(layer.duration_weight, layer.duration_bias, h.dtype))


def _without_padding(x: Tensor, lens: list[int]) -> Tensor:
    used = torch.arange(x.shape[1], device=x.device) < torch.tensor(lens, device=x.device)[:, None]
    return torch.where(used[..., None], x, 0.0)


def _in_dtype(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)
