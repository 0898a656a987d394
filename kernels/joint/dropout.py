"""The joint's dropout mask: a function of (frame, state, column, seed), so that it is never stored.

All arithmetic is modulo 2**32. torch has no shift of unsigned numbers, so these are int32 that wrap around.
They take a tenth of the time of int64 with a mask.
"""

import torch
from torch import Tensor

from maya.kernels.joint.rows import JointSettings, RowList

FRAME_STEP, COLUMN_STEP = 0x9E3779B1, 0x85EBCA77


def dropout_scale(rows: RowList, hidden: int, settings: JointSettings, dtype: torch.dtype) -> Tensor:
    """(R, H): 0 for elements of h that are dropped, 1 / (1 - dropout) for the others."""
    key = _mix_(_wrapped(rows.state + settings.seed))
    key = _mix_(key.add_(_wrapped(rows.frame * FRAME_STEP)))
    column = _wrapped(torch.arange(hidden, device=key.device) * COLUMN_STEP)
    draw = _mix_(key[:, None] + column)
    keep = draw.bitwise_xor_(signed32(1 << 31)) >= int(settings.dropout * 2**32) - (1 << 31)
    return keep.to(dtype).mul_(1 / (1 - settings.dropout))


def signed32(x: int) -> int:
    """The int32 with the same low 32 bits as x."""
    return ((x + 2**31) & 0xFFFFFFFF) - 2**31


def _mix_(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers whose output bits depend on all input bits ("lowbias32"), in place."""
    spare = torch.empty_like(x)
    _xor_shift_(x, 16, spare).mul_(signed32(0x7FEB352D))
    _xor_shift_(x, 15, spare).mul_(signed32(0x846CA68B))
    return _xor_shift_(x, 16, spare)


def _xor_shift_(x: Tensor, bits: int, spare: Tensor) -> Tensor:
    """x ^= x >> bits, for unsigned x."""
    torch.bitwise_right_shift(x, bits, out=spare)
    return x.bitwise_xor_(spare.bitwise_and_((1 << (32 - bits)) - 1))


def _wrapped(x: Tensor) -> Tensor:
    """int64 modulo 2**32, as int32 with the same bits."""
    return (((x + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)).to(torch.int32)
