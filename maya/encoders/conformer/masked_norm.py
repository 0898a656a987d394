"""Batch normalisation over the valid frames of a padded batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class MaskedBatchNorm(nn.Module):
    """BatchNorm1d over (B, S, D) frames whose training statistics leave padding out.

    With `masked=False` padding counts, as in NeMo. Evaluation is the same either way: running statistics.
    Statistics are fp32 at least, also under autocast, and taken over all ranks (NeMo's recipes set
    sync_batchnorm), so that a gradient does not depend on how many processes share the batch. State is
    named as `nn.BatchNorm1d`'s.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, *, masked: bool = True) -> None:
        super().__init__()
        self.masked, self.eps, self.momentum = masked, 1e-5, 0.1
        self.tracking = True
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit scale, zero shift, statistics of a standard normal."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, S, D), (B, S) bool False on padding -> (B, S, D) in the type of `x`."""
        if not self.training:
            rows = x.reshape(-1, x.shape[-1])
            y = F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return y.view(x.shape)
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            counted = valid if self.masked else torch.ones_like(valid)
            mean, var = self._statistics(wide, counted[..., None].to(wide.dtype))
            scale = self.weight * torch.rsqrt(var + self.eps)
            return torch.addcmul(self.bias - mean * scale, wide, scale).to(x.dtype)

    def _statistics(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (D,) over valid frames; moves the running statistics towards them."""
        count = _over_ranks(valid.sum())
        n = count.clamp(min=1)
        mean = _over_ranks((x * valid).sum((0, 1))) / n
        var = _over_ranks(((x - mean) * valid).square().sum((0, 1))) / n
        if self.tracking:
            with torch.no_grad():
                rate = self.momentum * (count > 0)
                unbiased = var * n / (n - 1).clamp(min=1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate.to(self.running_mean.dtype))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate.to(self.running_var.dtype))
                self.num_batches_tracked.add_(1)
        return mean, var


def _over_ranks(value: Tensor) -> Tensor:
    """The sum over all ranks, with the gradient that belongs to it; on one process the value itself."""
    return all_reduce(value) if _is_distributed() else value


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def same_on_all_ranks(draws: Tensor, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), on the CPU, as one such draw for all ranks: their sum modulo 1, exchanged on
    `device`. So every rank keeps its own random state, which a checkpoint holds."""
    if not _is_distributed():
        return draws
    total = draws.to(device, torch.float32)
    dist.all_reduce(total)
    return (total % 1).cpu()


@contextmanager
def untracked_statistics(module: nn.Module) -> Iterator[None]:
    """Leave running statistics alone, as activation checkpointing's second forward pass must."""
    norms = [m for m in module.modules() if isinstance(m, MaskedBatchNorm)]
    for norm in norms:
        norm.tracking = False
    try:
        yield
    finally:
        for norm in norms:
            norm.tracking = True
