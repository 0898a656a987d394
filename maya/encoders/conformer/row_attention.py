"""Attention of packed rows without a gradient. This only makes a CPU faster: the layer is the same without
it. For the few frames of a short utterance torch's fused attention takes a third more than plain products."""

import math

import torch
from torch import Tensor

from maya.encoders.conformer.packed_rows import Rows

MAX_FRAMES = 256  # of a row; the scores of longer ones leave the cache, where fused attention is quicker


def takes(rows: Rows, x: Tensor) -> bool:
    """Whether `attend_rows` is quicker for rows of x, and has no gradient to hand on."""
    return x.dtype == torch.float32 and not torch.is_grad_enabled() and max(rows.lens) <= MAX_FRAMES


def attend_rows(
    rows: Rows, q: Tensor, k: Tensor, v: Tensor, p: Tensor, biases: tuple[Tensor, Tensor]
) -> Tensor:
    """`RelPositionAttention` of each row over all of itself: q, k, v (1, N, H, K), p (2R + 1, H, K), biases u
    and v (H, K) -> (1, N, H, K), zero in the gaps."""
    u, w = biases
    scale, centre = 1 / math.sqrt(q.shape[-1]), p.shape[0] // 2
    content, place = ((q[0] + bias).mul_(scale).transpose(0, 1) for bias in (u, w))  # (H, N, K)
    keys, positions, values = k[0].permute(1, 2, 0), p.permute(1, 2, 0), v[0].transpose(0, 1)
    y, begin = torch.zeros_like(q), 0
    for n in rows.lens:
        row = slice(begin, begin + n)
        begin += n + rows.gap
        if n == 0:
            continue
        # (H, n, 2n - 1) by relative position; each row read one place earlier than the one before is by key.
        scores = torch.bmm(place[:, row], positions[:, :, centre - n + 1 : centre + n])
        by_key = scores.as_strided((len(scores), n, n), (n * (2 * n - 1), 2 * n - 2, 1), n - 1)
        shares = torch.baddbmm(by_key, content[:, row], keys[:, :, row]).softmax(-1)
        y[0, row] = torch.bmm(shares, values[:, row]).transpose(0, 1)
    return y
