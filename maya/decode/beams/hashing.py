"""Hashes of label sequences, by which a batched search recognises equal ones without reading their labels."""

import torch
from torch import Tensor

_MIX = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed number


def extended(hashes: Tensor, tokens: Tensor) -> Tensor:
    """The hashes (..., ) int64 of sequences that took one more token each.

    With 64 bits two different sequences get the same hash once in 10^19 comparisons.
    """
    mixed = (hashes ^ (tokens + 1)) * _MIX
    return mixed ^ (mixed >> 32)


def merge(totals: Tensor, same: Tensor) -> Tensor:
    """Log probabilities (B, K) with equal hypotheses added up.

    same (B, K, K): which are equal. The sum is put on the first of them, and the others get -inf.
    """
    merged = totals[:, None].masked_fill(~same, -torch.inf).logsumexp(-1)
    first = same.to(torch.uint8).argmax(-1) == torch.arange(totals.shape[1], device=same.device)
    return merged.masked_fill(~first, -torch.inf)
