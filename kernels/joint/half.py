"""fp16: gradients of the logits are scaled by a power of two, because they lie below fp16's range.

A typical element, 1e-4 (occupancy) times 1 / V, is 3e-9 at V = 32768; fp16 has nothing between 0 and 6e-8.
The largest occupancy is scaled to at most 2**15, half of fp16's largest number, so an element keeps 10 bits
down to 2**-29 of it. The products sum in fp32, and the result is scaled back. Both factors are powers of two,
so neither rounds. A gradient scaler's own factor does not matter. The torch form does without: its products
round to fp16 as plain torch does, and would overflow.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from maya.kernels.joint.rows import JointGradients, RowGradients

TARGET_EXPONENT = 15
BIAS, MANTISSA_BITS = 127, 23  # of fp32


def scaled_for_half(
    row_grads: RowGradients, dtype: torch.dtype | None
) -> tuple[RowGradients, Callable[[JointGradients], JointGradients]]:
    """Row gradients for products of `dtype`, and the function that undoes their factor in the result."""
    if dtype != torch.float16 or not row_grads.blank.numel():
        return row_grads, lambda grads: grads
    # |d loss / d logits| of a row is at most its mass; frexp: mass < 2**exponent. nan and inf get factor 1.
    top = (row_grads.blank.float().abs() + row_grads.label.float().abs()).amax()
    exponent = torch.where(torch.isfinite(top) & (top > 0), TARGET_EXPONENT - torch.frexp(top).exponent, 0)
    exponent = exponent.clamp(1 - BIAS, BIAS - 1)
    factor, inverse = power_of_two(exponent), power_of_two(-exponent)

    def unscale(grads: JointGradients) -> JointGradients:
        for x in grads.tensors:
            if x is not None:
                x.mul_(inverse)
        return grads

    durations = None if row_grads.durations is None else row_grads.durations * factor
    return RowGradients(
        row_grads.norm, row_grads.blank * factor, row_grads.label * factor, durations
    ), unscale


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent exactly, in fp32, for int32 exponents in -126..127."""
    return ((exponent.int() + BIAS) << MANTISSA_BITS).view(torch.float32)
