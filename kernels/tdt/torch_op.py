"""TDT loss in batched torch operators, with a gradient derived by hand. See README.md."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.lattice import Arcs, Posteriors, forward_backward, lattice_dtype
from maya.kernels.token_softmax import compute_dtype, gather_log_probs, logits_gradient


class TdtLoss(torch.autograd.Function):
    """Keeps the token logits (by reference), two (B, S, U+1) tensors and the duration gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        token_logits: Tensor,
        duration_logits: Tensor,
        targets: Tensor,
        frames: list[int],
        labels: list[int],
        durations: tuple[int, ...],
        blank: int,
        sigma: float,
    ) -> Tensor:
        of_blank, of_label = gather_log_probs(token_logits, targets, frames, labels, blank)
        of_duration = duration_logits.to(lattice_dtype(duration_logits.device)).log_softmax(-1)
        pairs = list(zip(durations, of_duration.unbind(-1), strict=True))
        arcs = Arcs(
            blank={d: of_blank - sigma + weight for d, weight in pairs if d > 0},
            label={d: of_label - sigma + weight for d, weight in pairs},
        )
        training = any(ctx.needs_input_grad[:2])
        result = forward_backward(arcs, frames, labels, with_posteriors=training)
        if training:
            blank_mass = torch.stack(list(result.blank.values())).sum(0)
            label_mass = torch.stack(list(result.label.values())).sum(0)
            duration_grad = _duration_gradient(of_duration, durations, result, blank_mass + label_mass)
            dtype = compute_dtype(token_logits.dtype)
            ctx.save_for_backward(
                token_logits, targets, blank_mass.to(dtype), label_mass.to(dtype),
                duration_grad.to(compute_dtype(duration_logits.dtype)), result.log_prob,
            )  # fmt: skip
            ctx.settings = (frames, labels, blank, duration_logits.dtype)
        return (-result.log_prob).to(compute_dtype(token_logits.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        token_logits, targets, blank_mass, label_mass, duration_grad, log_prob = ctx.saved_tensors
        frames, labels, blank, duration_dtype = ctx.settings
        scale = grad_loss.masked_fill(log_prob == float("-inf"), 0.0)
        token_grad = None
        if ctx.needs_input_grad[0]:
            token_grad = logits_gradient(
                token_logits, targets, frames, labels, blank,
                blank_mass=blank_mass, label_mass=label_mass, scale=scale, clamp=None,
            )  # fmt: skip
        duration_grad = (duration_grad * scale[:, None, None, None]).to(duration_dtype)
        return token_grad, duration_grad, None, None, None, None, None, None


def _duration_gradient(
    of_duration: Tensor, durations: tuple[int, ...], arcs: Posteriors, mass: Tensor
) -> Tensor:
    """mass * softmax - posterior of the arcs of each duration, (B, S, U+1, durations)."""
    # Where no path passes, padding may hold anything, even nan; a nan mass must still come through.
    grad = torch.where((mass != 0)[..., None], mass[..., None] * of_duration.exp(), 0.0)
    for i, d in enumerate(durations):
        grad[..., i] -= arcs.label[d]
        if d > 0:
            grad[..., i] -= arcs.blank[d]
    return grad
