"""What the host may read without waiting for a device, and how its numbers get to the device.

A read of a device tensor (`.item()`, `.tolist()`, `nonzero`) waits until the device has done all work that
was queued before. The device then idles until the host has queued more. No CUDA graph can hold such a step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def reads_freely(x: Tensor) -> bool:
    """Whether the host can read x without waiting. tests/no_waiting.py replaces this, to act as a device."""
    return x.is_cpu


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on `device`, without waiting. CUDA copies asynchronously only from pinned memory."""
    if x.is_cpu and device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def numbers_on(device: torch.device, values: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers of the host as a tensor (n,) on `device`. `torch.tensor(..., device=...)` would wait."""
    return to_device(torch.tensor(values, dtype=dtype, device="cpu"), device)


def read_together(*tensors: Tensor) -> list[Tensor]:
    """Integer tensors as int64 on the host. All that are on a device come in one read, so it waits once."""
    distant = [x for x in tensors if not reads_freely(x)]
    if not distant:
        return [x.long() for x in tensors]
    parts = iter(torch.cat([x.long().flatten() for x in distant]).cpu().split([x.numel() for x in distant]))
    return [x.long() if reads_freely(x) else next(parts).view(x.shape) for x in tensors]
