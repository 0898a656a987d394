"""TDT loss in batched torch operators, with a gradient derived by hand. See README.md."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import scores_dtype
from maya.kernels.lattice import tdt_lattice
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
        backend: str,
    ) -> Tensor:
        wide = scores_dtype(backend, token_logits)
        of_blank, of_label = gather_log_probs(token_logits, targets, frames, labels, blank, wide)
        of_duration = duration_logits.to(wide).log_softmax(-1)
        result = tdt_lattice(
            of_blank.sub_(sigma), of_label.sub_(sigma), of_duration, frames, labels,
            durations=durations, with_posteriors=any(ctx.needs_input_grad[:2]), backend=backend,
        )  # fmt: skip
        if result.blank is not None and result.label is not None and result.durations is not None:
            dtype = compute_dtype(token_logits.dtype)
            mass = (result.blank + result.label)[..., None]
            # Where no path passes, padding may hold anything, even nan; a nan mass must still come through.
            duration_grad = torch.where(mass != 0, mass * of_duration.exp_(), 0.0).sub_(result.durations)
            ctx.save_for_backward(
                token_logits, targets, result.blank.to(dtype), result.label.to(dtype),
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
        return token_grad, duration_grad, *(None,) * 7
