"""The joint's dropout mask: a function of (frame, state, column, seed), so that nobody has to keep it.

All arithmetic is modulo 2**32. torch has no shift of unsigned numbers, so these are int32 that wrap around, a
tenth of the time of int64 that are masked.
"""

import torch
from torch import Tensor

from maya.kernels.joint.rows import JointSettings, RowList

FRAME_STEP, COLUMN_STEP = 0x9E3779B1, 0x85EBCA77


def dropout_scale(rows: RowList, hidden: int, settings: JointSettings, dtype: torch.dtype) -> Tensor:
    """(R, H): 0 where h is dropped, 1 / (1 - dropout) where it is kept."""
    key = _mix_(_wrapped(rows.state + settings.seed))
    key = _mix_(key.add_(_wrapped(rows.frame * FRAME_STEP)))
    column = _wrapped(torch.arange(hidden, device=key.device) * COLUMN_STEP)
    draw = _mix_(key[:, None] + column)
    keep = draw.bitwise_xor_(_signed(1 << 31)) >= int(settings.dropout * 2**32) - (1 << 31)
    return keep.to(dtype).mul_(1 / (1 - settings.dropout))


def _mix_(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers whose output bits depend on all input bits ("lowbias32"), in place."""
    spare = torch.empty_like(x)
    _xor_shift_(x, 16, spare).mul_(_signed(0x7FEB352D))
    _xor_shift_(x, 15, spare).mul_(_signed(0x846CA68B))
    return _xor_shift_(x, 16, spare)


def _xor_shift_(x: Tensor, bits: int, spare: Tensor) -> Tensor:
    """x ^= x >> bits, of unsigned x."""
    torch.bitwise_right_shift(x, bits, out=spare)
    return x.bitwise_xor_(spare.bitwise_and_((1 << (32 - bits)) - 1))


def _wrapped(x: Tensor) -> Tensor:
    """int64 modulo 2**32, as int32 of the same bits."""
    return (((x + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)).to(torch.int32)


def _signed(bits: int) -> int:
    """The number that int32 makes of 32 bits."""
    return bits - (1 << 32) if bits >= 1 << 31 else bits
