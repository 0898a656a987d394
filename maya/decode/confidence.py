"""Confidence of tokens from the whole distribution that the model gave at their frame, in [0, 1].

The measures are those of Laptev and Ginsburg 2022 (arXiv:2212.08703), as NeMo has them: each is 1 for a
distribution with all mass on one output and 0 for the uniform one. Entropies find wrong words better than the
largest probability does.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from maya.config import config
from maya.ranges import PosFloat

LEAST = -1e4  # nats: exp gives 0, and 0 times it is 0


@config
class ConfidenceConfig:
    """measure: "max_prob" is the largest probability; "gibbs", "tsallis" and "renyi" are entropies; "none"
    gives no confidences.

    The defaults, 1 less Shannon's entropy over its largest value, find wrong words as well as the other
    measures in docs/decoding.md, and are near to probabilities before a calibration. With NeMo's defaults
    (tsallis, alpha 0.33, exp) right words have values near 0 unless the model is very sure.

    alpha: the power of the probabilities. Below 1 it gives small ones more influence. With 1 the Tsallis and
        the Rényi entropy are the Gibbs entropy, which is Shannon's.
    norm: "exp" scales the exponential of the entropy to [0, 1], "lin" the entropy itself; not for max_prob.
    aggregation: over the frames of a CTC run, which are one token. A transducer's token has one frame.
    """

    measure: Literal["max_prob", "gibbs", "tsallis", "renyi", "none"] = "gibbs"
    alpha: PosFloat = 1.0
    norm: Literal["exp", "lin"] = "lin"
    aggregation: Literal["min", "mean", "max", "prod"] = "min"

    def __bool__(self) -> bool:
        return self.measure != "none"


def distribution_confidence(log_probs: Tensor, cfg: ConfidenceConfig) -> Tensor:
    """Log probabilities (..., V), V counting blank → (...,) fp32 in [0, 1]; not for the measure "none"."""
    x, alpha = log_probs.float(), float(cfg.alpha)
    outputs = x.shape[-1]
    if cfg.measure == "max_prob":
        power = outputs**alpha
        confidence = ((x.amax(-1) * alpha).exp() * power - 1) / (power - 1)
    elif cfg.measure == "gibbs" or alpha == 1:
        confidence = _gibbs(x, alpha, cfg.norm)
    else:
        # The sum over V of p^alpha. It is 1 for one output, V^(1 - alpha) for the uniform distribution.
        power_sum, uniform = (x * alpha).exp().sum(-1), outputs ** (1 - alpha)
        if cfg.measure == "tsallis":
            confidence = _scaled((1 - power_sum) / (1 - alpha), (1 - uniform) / (1 - alpha), cfg.norm)
        elif cfg.norm == "lin":
            confidence = 1 - power_sum.log() / ((1 - alpha) * math.log(outputs))
        else:
            confidence = (power_sum ** (1 / (alpha - 1)) * outputs - 1) / (outputs - 1)
    return confidence.nan_to_num().clamp(0, 1)


def _gibbs(x: Tensor, alpha: float, norm: str) -> Tensor:
    """From the sum over V of p^alpha log p, which is -V^(1 - alpha) log V for the uniform distribution."""
    x = x.clamp(min=LEAST)
    negative = ((x * alpha).exp() * x).sum(-1)
    outputs = x.shape[-1]
    return _scaled(alpha * negative, -alpha * outputs ** (1 - alpha) * math.log(outputs), norm)


def _scaled(negative: Tensor, uniform: float, norm: str) -> Tensor:
    """A negative entropy, or its exponential, scaled to 0 at `uniform` and 1 at 0."""
    if norm == "lin":
        return 1 - negative / uniform
    least = math.exp(uniform)
    return (negative.exp() - least) / (1 - least)


def aggregate(values: Sequence[float], how: str) -> float:
    """One confidence of several, which are not empty. how: "min", "mean", "max" or "prod"."""
    if how == "min":
        return min(values)
    if how == "max":
        return max(values)
    return math.prod(values) if how == "prod" else sum(values) / len(values)


def token_confidences(logits: Tensor, cfg: ConfidenceConfig) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of N tokens' frames → their log probabilities (N, V) and the confidences (N,), fp32; with
    the measure "none" (0,)."""
    log_probs = logits.float().log_softmax(-1)
    if not cfg:
        return log_probs, torch.empty(0, device=logits.device)
    return log_probs, distribution_confidence(log_probs, cfg)
