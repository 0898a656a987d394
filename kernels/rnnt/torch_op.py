"""RNN-T loss in batched torch operators, with a gradient derived by hand. See README.md."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import Transcripts
from maya.kernels.lattice import rnnt_lattice
from maya.kernels.precision import compute_dtype, scores_dtype
from maya.kernels.rnnt.reference import rnnt_loss_reference
from maya.kernels.token_softmax import gather_log_probs, logits_gradient


def checked_loss(
    logits: Tensor, transcripts: Transcripts, fastemit: float, clamp: float | None, backend: str
) -> Tensor:
    """`rnnt_loss` of checked arguments and a chosen backend."""
    if backend == "reference":
        return rnnt_loss_reference(logits.to(compute_dtype(logits.dtype)), transcripts, fastemit, clamp)
    loss: Tensor = RnntLoss.apply(logits, transcripts, fastemit, clamp, backend)
    return loss


class RnntLoss(torch.autograd.Function):
    """Saves the logits (by reference) and two (B, S, U+1) tensors for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, transcripts: Transcripts, fastemit: float, clamp: float | None, backend: str
    ) -> Tensor:
        blank, label = gather_log_probs(logits, transcripts, scores_dtype(backend, logits))
        result = rnnt_lattice(
            blank, label, transcripts.frames, transcripts.labels,
            with_posteriors=ctx.needs_input_grad[0], backend=backend,
        )  # fmt: skip
        dtype = compute_dtype(logits.dtype)
        if result.blank is not None and result.label is not None:
            label_mass = result.label.mul_(1.0 + fastemit).to(dtype)
            ctx.save_for_backward(logits, result.blank.to(dtype), label_mass)
            ctx.settings = (transcripts, clamp)
        return (-(1.0 + fastemit) * result.log_prob).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        logits, blank_mass, label_mass = ctx.saved_tensors
        transcripts, clamp = ctx.settings
        grad = logits_gradient(logits, transcripts, blank_mass, label_mass, grad_loss, clamp)
        return grad, *(None,) * 4
