"""Large-chunk test-time training by its definition (Zhang et al. 2025, arXiv 2505.23884): the truth for the
fast forms.

Every product is an einsum over named axes, every step an assignment. Differentiable; meant for fp64.
b utterance, l frame, h head, d channel of the input, e channel of the hidden layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from maya.kernels.lact.newton_schulz import newton_schulz
from maya.kernels.lact.plan import Span
from maya.kernels.lact.state import RENORMALISE_EPS, FastWeights, RowNorms, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Arguments of `lact`, checked. mask: (B, L), true on frames that exist, or None if all do."""

    q: Tensor
    k: Tensor
    v: Tensor
    rates: Tensor
    mask: Tensor | None
    gate: Tensor | None
    norms: RowNorms
    step_scale: Tensor | None


def lact_reference(
    x: Inputs, weights: FastWeights, plan: Sequence[Span], rule: Rule
) -> tuple[Tensor, FastWeights]:
    """Output (B, L, H, D), 0 on frames that no span applies to, and the weights after the last span."""
    mask = x.q.new_ones(x.q.shape[:2], dtype=torch.bool) if x.mask is None else x.mask
    q, k, v, rates = (y.masked_fill(~mask[:, :, None, None], 0.0) for y in (x.q, x.k, x.v, x.rates))
    gate = None if x.gate is None else x.gate.masked_fill(~mask[:, :, None], 0.0)
    out = torch.zeros_like(q)
    for span in plan:
        at = slice(span.start, span.end)
        if span.update:
            frames = mask[:, at].sum(1).to(q.dtype)[:, None]
            beta = None if gate is None else gate[:, at].sum(1) / frames.clamp(min=1)
            gradients = inner_gradients(weights, k[:, at], v[:, at], rates[:, at])
            weights = step(weights, gradients, frames, beta, x, rule)
        if span.apply:
            out[:, at] = fast_weight_network(weights, q[:, at])
    return out, weights


def fast_weight_network(weights: FastWeights, x: Tensor) -> Tensor:
    """f(x) = w1 (silu(w0 x) * (w2 x)), (B, L, H, D)."""
    hidden = silu(torch.einsum("bhed,blhd->blhe", weights.w0, x))
    hidden = hidden * torch.einsum("bhed,blhd->blhe", weights.w2, x)
    return torch.einsum("bhde,blhe->blhd", weights.w1, hidden)


def inner_gradients(weights: FastWeights, k: Tensor, v: Tensor, rates: Tensor) -> list[Tensor]:
    """Minus the gradients by w0, w1, w2 of - sum over frames of rate * <f(k), v>, each with its rate."""
    a = torch.einsum("bhed,blhd->blhe", weights.w0, k)
    c = torch.einsum("bhed,blhd->blhe", weights.w2, k)
    delta = torch.einsum("bhde,blhd->blhe", weights.w1, v)
    s = torch.sigmoid(a)
    rate0, rate1, rate2 = rates.unbind(-1)
    return [
        torch.einsum("blh,blhe,blhd->bhed", rate0, delta * c * s * (1 + a * (1 - s)), k),
        torch.einsum("blh,blhd,blhe->bhde", rate1, v, a * s * c),
        torch.einsum("blh,blhe,blhd->bhed", rate2, delta * a * s, k),
    ]


def step(
    weights: FastWeights,
    gradients: Sequence[Tensor],
    frames: Tensor,
    beta: Tensor | None,
    x: Inputs,
    rule: Rule,
) -> FastWeights:
    """One step of the fast weights on one span.

    frames: (B, 1), the number of existing frames; an utterance with none keeps its weights. beta: (B, H), the
    share of the old momentum, or None.
    """
    after, momenta = list(weights[:3]), list(weights[3:])
    learned = frames[..., None, None] > 0
    for i in (1,) if rule.update_weights == "w1" else (0, 1, 2):
        w, m = weights[i], weights[3 + i]
        assert w is not None
        update = gradients[i]
        if rule.normalize == "frames":
            update = update / frames.clamp(min=1)[..., None, None]
        if beta is not None:
            m = torch.zeros_like(w) if m is None else m
            update = beta[..., None, None] * m + update
            momenta[i] = torch.where(learned, update, m)
        if rule.orthogonalize != "none":
            update = newton_schulz(update, rule.orthogonalize)
        if x.step_scale is not None:
            update = x.step_scale[:, None, None] * update
        after[i] = torch.where(learned, renormalise(w + update, x.norms[i]), w)
    return FastWeights(*after, *momenta)


def renormalise(w: Tensor, norms: Tensor) -> Tensor:
    """The rows of w, scaled to `norms`."""
    length = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
    return w / (length + RENORMALISE_EPS) * norms[..., None]
