"""CMA-ES with a diagonal covariance (Hansen 2016, arXiv:1604.00772; Ros and Hansen 2008).

For a vector of 512 numbers and tens of generations a full matrix would move by a thousandth, so it would
cost its decomposition for nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class SearchState:
    """The distribution that candidates are drawn from: a normal one around mean (n,) with the standard
    deviations sigma · sqrt(variance (n,)), and the two paths (n,) of its recent steps."""

    mean: Tensor
    variance: Tensor
    sigma: float
    sigma_path: Tensor
    path: Tensor
    generation: int = 0

    @classmethod
    def start(cls, size: int, sigma: float) -> "SearchState":
        zeros = torch.zeros(size)
        return cls(zeros, torch.ones(size), sigma, zeros, zeros)


def draw(state: SearchState, population: int, generator: torch.Generator) -> Tensor:
    """(population, n) candidates."""
    noise = torch.randn(population, len(state.mean), generator=generator)
    return state.mean + state.sigma * state.variance.sqrt() * noise


def updated(state: SearchState, candidates: Tensor, losses: Tensor) -> SearchState:
    """The state after the losses (population,) of candidates (population, n); the better half counts."""
    n, parents = candidates.shape[1], max(len(candidates) // 2, 1)
    weights = math.log(parents + 0.5) - torch.arange(1, parents + 1).log()
    weights = weights / weights.sum()
    effective = float(1 / weights.square().sum())
    rate_sigma = (effective + 2) / (n + effective + 5)
    damping = 1 + rate_sigma + 2 * max(0.0, math.sqrt(max(effective - 1, 0.0) / (n + 1)) - 1)
    rate_path = (4 + effective / n) / (n + 4 + 2 * effective / n)
    faster = (n + 2) / 3  # a diagonal has n numbers to learn, not n²/2
    rate_one = min(1.0, faster * 2 / ((n + 1.3) ** 2 + effective))
    rate_all = min(1 - rate_one, faster * 2 * (effective - 2 + 1 / effective) / ((n + 2) ** 2 + effective))
    length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # of a standard normal vector
    best = candidates[losses.argsort()[:parents]]
    steps = (best - state.mean) / state.sigma
    step = weights @ steps
    push = math.sqrt(rate_sigma * (2 - rate_sigma) * effective)
    sigma_path = (1 - rate_sigma) * state.sigma_path + push * step / state.variance.sqrt()
    generation = state.generation + 1
    norm = float(sigma_path.norm())
    is_short = norm / math.sqrt(1 - (1 - rate_sigma) ** (2 * generation)) < (1.4 + 2 / (n + 1)) * length
    pull = math.sqrt(rate_path * (2 - rate_path) * effective)
    path = (1 - rate_path) * state.path + is_short * pull * step
    variance = (1 - rate_one - rate_all) * state.variance
    variance = variance + rate_one * path.square() + rate_all * (weights @ steps.square())
    sigma = state.sigma * math.exp(rate_sigma / damping * (norm / length - 1))
    return SearchState(state.mean + state.sigma * step, variance, sigma, sigma_path, path, generation)
