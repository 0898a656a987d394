"""TDT loss in batched torch operators, with a gradient derived by hand. See README.md."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import Transcripts
from maya.kernels.lattice import tdt_lattice
from maya.kernels.precision import compute_dtype, scores_dtype
from maya.kernels.token_softmax import gather_log_probs, logits_gradient


class TdtLoss(torch.autograd.Function):
    """Saves the token logits (by reference), two (B, S, U+1) tensors and the duration gradient."""

    @staticmethod
    def forward(
        ctx: Any, token_logits: Tensor, duration_logits: Tensor, transcripts: Transcripts,
        durations: tuple[int, ...], sigma: float, backend: str,
    ) -> Tensor:  # fmt: skip
        wide = scores_dtype(backend, token_logits)
        blank, label = gather_log_probs(token_logits, transcripts, wide)
        by_duration = duration_logits.to(wide).log_softmax(-1)
        result = tdt_lattice(
            blank.sub_(sigma), label.sub_(sigma), by_duration, transcripts.frames, transcripts.labels,
            durations=durations, with_posteriors=any(ctx.needs_input_grad[:2]), backend=backend,
        )  # fmt: skip
        dtype = compute_dtype(token_logits.dtype)
        if result.blank is not None and result.label is not None and result.durations is not None:
            mass = (result.blank + result.label)[..., None]
            # Padding may hold anything, even nan, where no path passes; a nan mass must come through.
            duration_grad = torch.where(mass != 0, mass * by_duration.exp_(), 0.0).sub_(result.durations)
            ctx.save_for_backward(
                token_logits, result.blank.to(dtype), result.label.to(dtype),
                duration_grad.to(compute_dtype(duration_logits.dtype)), result.log_prob,
            )  # fmt: skip
            ctx.settings = (transcripts, duration_logits.dtype)
        return (-result.log_prob).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        token_logits, blank_mass, label_mass, duration_grad, log_prob = ctx.saved_tensors
        transcripts, duration_dtype = ctx.settings
        scale = grad_loss.masked_fill(log_prob == float("-inf"), 0.0)
        token_grad = None
        if ctx.needs_input_grad[0]:
            token_grad = logits_gradient(token_logits, transcripts, blank_mass, label_mass, scale)
        duration_grad = (duration_grad * scale[:, None, None, None]).to(duration_dtype)
        return token_grad, duration_grad, *(None,) * 4
