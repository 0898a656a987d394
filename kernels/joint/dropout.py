"""The joint's dropout mask: a function of (frame, state, column, seed), so that nobody has to keep it."""

import torch
from torch import Tensor

from maya.kernels.joint.rows import JointSettings, RowList

FRAME_STEP, COLUMN_STEP = 0x9E3779B1, 0x85EBCA77
_ALL = 0xFFFFFFFF


def dropout_scale(rows: RowList, hidden: int, settings: JointSettings, dtype: torch.dtype) -> Tensor:
    """(R, H): 0 where h is dropped, 1 / (1 - dropout) where it is kept."""
    key = _mix((rows.frame * FRAME_STEP + _mix((rows.state + settings.seed) & _ALL)) & _ALL)
    column = torch.arange(hidden, device=key.device) * COLUMN_STEP
    keep = _mix((key[:, None] + column) & _ALL) >= int(settings.dropout * 2**32)
    return keep.to(dtype) * (1 / (1 - settings.dropout))


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers whose output bits all depend on all input bits ("lowbias32")."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _ALL
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _ALL
    return x ^ (x >> 16)
