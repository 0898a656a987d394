"""RNN-T loss in batched torch operators, with a gradient derived by hand. See README.md."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import scores_dtype
from maya.kernels.lattice import rnnt_lattice
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
        backend: str,
    ) -> Tensor:
        wide = scores_dtype(backend, logits)
        of_blank, of_label = gather_log_probs(logits, targets, frames, labels, blank, wide)
        training = ctx.needs_input_grad[0]
        result = rnnt_lattice(of_blank, of_label, frames, labels, with_posteriors=training, backend=backend)
        if result.blank is not None and result.label is not None:
            dtype = compute_dtype(logits.dtype)
            label_mass = result.label.mul_(1.0 + fastemit).to(dtype)
            ctx.save_for_backward(logits, targets, result.blank.to(dtype), label_mass)
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
        return grad, *(None,) * 7
