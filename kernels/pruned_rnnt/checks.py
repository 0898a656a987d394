"""Checks of the arguments that only pruned losses have. Errors are ValueErrors that name the argument."""

import math

import torch
from torch import Tensor

from maya.kernels import host
from maya.kernels.checks import check_tensor
from maya.kernels.pruned_rnnt.arcs import TYPES, ArcRules
from maya.kernels.pruned_rnnt.simple import Smoothing


def check_rules(op: str, rnnt_type: str, delay_penalty: float = 0.0) -> ArcRules:
    if rnnt_type not in TYPES:
        raise ValueError(f"{op}: rnnt_type must be one of {TYPES}, not {rnnt_type!r}")
    if not math.isfinite(delay_penalty):
        raise ValueError(f"{op}: delay_penalty must be finite, not {delay_penalty}")
    return ArcRules(rnnt_type, float(delay_penalty))


def check_smoothing(op: str, lm_only_scale: float, am_only_scale: float) -> Smoothing:
    """The two scales are shares of 1."""
    for name, scale in (("lm_only_scale", lm_only_scale), ("am_only_scale", am_only_scale)):
        if not 0 <= scale <= 1:
            raise ValueError(f"{op}: {name} must lie in 0..1, not {scale}")
    if lm_only_scale + am_only_scale > 1:
        raise ValueError(
            f"{op}: lm_only_scale and am_only_scale must not add up to more than 1, not "
            f"{lm_only_scale} and {am_only_scale}"
        )
    return Smoothing(float(lm_only_scale), float(am_only_scale))


def check_windows(
    op: str, ranges: Tensor, shape: tuple[int, int, int | None], width: int, frames: list[int], like: Tensor
) -> Tensor:
    """Ranges (B, S, R) int64 with 0..R-1 on padding; on a row's frames, consecutive positions in 0..U.

    shape: B, S and R, None for any. width: U + 1. The ranges are computed on the device, and a read of them
    would wait for it. So the device itself refuses wrong ones, with an assertion that ends the process.
    """
    check_tensor(op, "ranges", ranges, shape, like=like, floating=False)
    window = ranges.shape[2]
    if not 1 <= window <= width:
        raise ValueError(f"{op}: ranges must hold 1..{width} positions for each frame, not {window}")
    offset = torch.arange(window, device=ranges.device)
    n_frames = host.numbers_on(ranges.device, frames)[:, None]
    used = torch.arange(ranges.shape[1], device=ranges.device) < n_frames
    ranges = torch.where(used[..., None], ranges, offset).long()
    first = ranges[..., :1]
    wrong = ((ranges != first + offset) | (ranges < 0) | (ranges >= width)).any(-1)
    if not host.reads_freely(wrong):
        torch._assert_async(~wrong.any(), f"{op}: ranges must be consecutive positions in 0..{width - 1}")
    elif bool(wrong.any()):
        b, s = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{op}: ranges must be consecutive positions in 0..{width - 1}, not {ranges[b, s].tolist()} at "
            f"row {b}, frame {s}"
        )
    return ranges
