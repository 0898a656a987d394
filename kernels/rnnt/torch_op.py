"""RNN-T loss in batched torch operators, with a gradient derived by hand. See README.md."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.lattice import Arcs, forward_backward
from maya.kernels.token_softmax import compute_dtype, gather_log_probs, logits_gradient


class RnntLoss(torch.autograd.Function):
    """Keeps the logits (by reference) and two (B, S, U+1) tensors for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        frames: list[int],
        labels: list[int],
        blank: int,
        fastemit: float,
        clamp: float | None,
    ) -> Tensor:
        of_blank, of_label = gather_log_probs(logits, targets, frames, labels, blank)
        arcs = Arcs(blank={1: of_blank}, label={0: of_label})
        result = forward_backward(arcs, frames, labels, with_posteriors=ctx.needs_input_grad[0])
        if ctx.needs_input_grad[0]:
            dtype = compute_dtype(logits.dtype)
            label_mass = result.label[0].mul_(1.0 + fastemit).to(dtype)
            ctx.save_for_backward(logits, targets, result.blank[1].to(dtype), label_mass)
            ctx.settings = (frames, labels, blank, clamp)
        return (-(1.0 + fastemit) * result.log_prob).to(compute_dtype(logits.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, blank_mass, label_mass = ctx.saved_tensors
        frames, labels, blank, clamp = ctx.settings
        grad = logits_gradient(
            logits, targets, frames, labels, blank,
            blank_mass=blank_mass, label_mass=label_mass, scale=grad_loss, clamp=clamp,
        )  # fmt: skip
        return grad, None, None, None, None, None, None
