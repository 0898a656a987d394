"""Where pruned RNN-T looks: for each frame, the window of label positions that the simple loss favours."""

import torch
from torch import Tensor

from maya.kernels.pruned_rnnt.arcs import ArcRules


def window_size(s_range: int, frames: list[int], labels: list[int], width: int, rules: ArcRules) -> int:
    """Positions in each window, R: `s_range`, raised until windows can follow every text, at most `width`.

    From frame to frame a window moves R - 1 positions at most (so that neighbours share one), in T frames
    together with its own width past U labels if R >= ceil(U / T) + 1. Where a label takes a frame it moves by
    1 at most, and any R will do, except that "constrained" needs the next position on the same frame.
    """
    most = max(labels, default=0)
    if rules.rnnt_type == "regular":
        needed = [-(-u // t) + 1 for t, u in zip(frames, labels, strict=True) if t and u]
        s_range = max([s_range, *needed])
    elif rules.rnnt_type == "constrained" and most:
        s_range = max(s_range, 2)
    return min(s_range, width)


def window_starts(
    px_occupation: Tensor,
    py_occupation: Tensor,
    frames: list[int],
    labels: list[int],
    window: int,
    rules: ArcRules,
) -> Tensor:
    """First label position of each frame's window, (B, S) int64, in closed form.

    A window's worth is the blank mass that leaves its positions less the label mass that enters it from
    below. The best ones are then made to cover the last position at the end, never to move back, to start
    at 0 and to move no faster than `step`, each in favour of the later window's place.
    """
    size = px_occupation.shape[1]
    device = px_occupation.device
    worth = py_occupation.unfold(2, window, 1).sum(-1)  # (B, S, U + 2 - window)
    worth[..., 1:] -= px_occupation[..., : worth.shape[2] - 1]
    t = torch.arange(size, device=device)
    last = (torch.tensor(labels, device=device, dtype=torch.int64) - window + 1).clamp_(min=0)[:, None]
    over = t >= torch.tensor(frames, device=device)[:, None] - 1
    starts = torch.where(over, last, worth.argmax(2))
    starts = _from_the_end(starts, torch.cummin)
    step = window - 1 if rules.rnnt_type == "regular" else 1
    reached = _from_the_end(starts - step * t, torch.cummax) + step * t
    return torch.minimum(reached, step * t)


def _from_the_end(x: Tensor, scan) -> Tensor:  # type: ignore[no-untyped-def]
    """Running extreme along the last axis, from its end to its start."""
    return scan(x.flip(-1), -1).values.flip(-1)
