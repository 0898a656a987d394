"""Sums by token in one order on every device, so that two runs give the same bits."""

import torch
from torch import Tensor


def add_tokens(total: Tensor, tokens: Tensor, values: Tensor) -> None:
    """total (B, S, V) at the tokens (B, U) plus values (B, S, U), in place.

    A text may repeat a token. On CUDA `scatter_add_` then adds in a random order; `index_put_` sorts first.
    """
    if total.is_cpu:
        total.scatter_add_(2, tokens[:, None].expand_as(values), values)
        return
    b, s = (torch.arange(n, device=total.device) for n in total.shape[:2])
    total.index_put_((b[:, None, None], s[None, :, None], tokens[:, None]), values, accumulate=True)


def add_at(total: Tensor, index: Tensor, values: Tensor) -> None:
    """total (N,) at the index (R,) plus values (R,), in place."""
    if total.is_cpu:
        total.index_add_(0, index, values)
    else:
        total.index_put_((index,), values, accumulate=True)
