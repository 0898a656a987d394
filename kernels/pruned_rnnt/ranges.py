"""The windows of pruned RNN-T: for each frame, the label positions that the simple loss favours."""

import torch
from torch import Tensor

from maya.kernels.host import numbers_on
from maya.kernels.pruned_rnnt.arcs import ArcRules


def window_size(s_range: int, frames: list[int], labels: list[int], width: int, rules: ArcRules) -> int:
    """Positions in each window, R: `s_range`, raised until windows can follow every text, at most `width`.

    From frame to frame a window moves by at most R - 1 positions, so that neighbours share one. It passes U
    labels in T frames if R >= ceil(U / T) + 1. If a label takes a frame, a window moves by at most 1, and any
    R is enough, except that "constrained" needs the next position on the same frame.
    """
    most = max(labels, default=0)
    if rules.rnnt_type == "regular":
        needed = [-(-u // t) + 1 for t, u in zip(frames, labels, strict=True) if t and u]
        s_range = max([s_range, *needed])
    elif rules.rnnt_type == "constrained" and most:
        s_range = max(s_range, 2)
    return min(s_range, width)


def window_starts(
    px_occupation: Tensor, py_occupation: Tensor, frames: list[int], labels: list[int], window: int,
    rules: ArcRules,
) -> Tensor:  # fmt: skip
    """First label position of each frame's window, (B, S) int64, in closed form.

    The value of a window is the blank mass that leaves its positions less the label mass that enters it from
    below. The best windows are then changed so that they cover the last position at the end, never move back,
    start at 0 and move no faster than `step`. Each change favours the place of the later window.
    """
    size = px_occupation.shape[1]
    device = px_occupation.device
    value = py_occupation.unfold(2, window, 1).sum(-1)  # (B, S, U + 2 - window)
    value[..., 1:] -= px_occupation[..., : value.shape[2] - 1]
    t = torch.arange(size, device=device)
    last = (numbers_on(device, labels) - window + 1).clamp_(min=0)[:, None]
    at_end = t >= numbers_on(device, frames)[:, None] - 1
    starts = torch.where(at_end, last, value.argmax(2))
    starts = _from_the_end(starts, torch.cummin)
    step = window - 1 if rules.rnnt_type == "regular" else 1
    starts = _from_the_end(starts - step * t, torch.cummax) + step * t
    return torch.minimum(starts, step * t)


def _from_the_end(x: Tensor, scan) -> Tensor:  # type: ignore[no-untyped-def]
    """Cumulative extremum along the last axis, from its end to its start."""
    return scan(x.flip(-1), -1).values.flip(-1)
