"""Batches of items of like length, so that little of them is padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def batches_by_length(
    lengths: Sequence[float] | NDArray[np.floating], max_length: float, max_items: int | None = None
) -> list[list[int]]:
    """Item numbers in batches, longest first; items of equal length keep their order.

    A batch holds at most `max_length` with padding and `max_items` items; a longer item is a batch of its
    own. The unit of lengths may be any, such as seconds or samples.
    """
    sizes = np.asarray(lengths, dtype=np.float64)
    order = np.argsort(-sizes, kind="stable").tolist()
    batches: list[list[int]] = []
    begin = 0
    while begin < len(order):
        longest = sizes[order[begin]]
        fits = int(max_length * (1 + 1e-9) / longest) if longest > 0 else len(order)
        end = begin + max(1, min(fits, max_items or len(order)))
        batches.append(order[begin:end])
        begin = end
    return batches
