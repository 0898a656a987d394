"""Scale-invariant signal-to-distortion ratio of separated signals, for the best order of the sources."""

from itertools import permutations

import torch
from torch import Tensor

from maya.errors import MayaError

EPS = 1e-8
_MOST_SOURCES = 5  # 120 orders


def si_sdr(estimates: Tensor, sources: Tensor, lens: Tensor) -> Tensor:
    """SI-SDR in dB (Le Roux et al. 2019, arXiv:1811.02508, equation 5).

    estimates, sources: (..., N) float, which broadcast. lens: (...) samples that count, at least 1. Means are
    taken out. A silent source gives about -80 dB or less, by the guard 1e-8 of both energies alone.
    """
    valid = (torch.arange(sources.shape[-1], device=lens.device) < lens[..., None]).to(sources.dtype)
    estimates, sources = _centred(estimates, valid), _centred(sources, valid)
    scale = (estimates * sources).sum(-1, keepdim=True) / (sources.square().sum(-1, keepdim=True) + EPS)
    target = scale * sources
    ratio = (target.square().sum(-1) + EPS) / ((target - estimates).square().sum(-1) + EPS)
    return 10 * ratio.log10()


def pit_si_sdr_loss(estimates: Tensor, sources: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """The negative mean SI-SDR of the sources in dB, for the order in which it is least
    (permutation-invariant training, Yu et al. 2017).

    estimates, sources: (B, K, N) float, computed as fp32 at least. lens: (B,) int64 samples of each row; what
    is beyond does not matter. Returns the loss (B,) and the order (B, K) int64: estimate `order[b, k]` is of
    source k. Raises MayaError for more than 5 sources.
    """
    wide = torch.promote_types(estimates.dtype, torch.float32)
    estimates, sources = estimates.to(wide), sources.to(wide)
    pairs = si_sdr(estimates[:, None], sources[:, :, None], lens.clamp(min=1)[:, None, None])  # (B, K, K)
    best, order = best_order(pairs)
    return -best, order


def best_order(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The pairing of K estimates with K sources whose mean value is highest, among all K! of them.

    pairs: (B, K, K), the value of source k with estimate l at [b, k, l]. Returns the mean (B,) and the order
    (B, K) int64: estimate `order[b, k]` is of source k. Raises MayaError for more than 5 sources.
    """
    count = pairs.shape[1]
    if count > _MOST_SOURCES:
        raise MayaError(f"{count} sources have too many orders; use {_MOST_SOURCES} or fewer")
    orders = torch.tensor(list(permutations(range(count))), device=pairs.device)
    means = pairs[:, torch.arange(count, device=pairs.device), orders].mean(-1)  # (B, orders)
    best, number = means.max(1)
    return best, orders[number]


def _centred(x: Tensor, valid: Tensor) -> Tensor:
    mean = (x * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True)
    return (x - mean) * valid
