"""CTC (Graves et al. 2006) on a GPU: a lattice whose gradient has one order of sums, and that does not wait.

torch's `ctc_loss` on CUDA adds its gradient with atomics, and copies lengths to the device by calls that wait
for it. README.md has the derivation.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import Transcripts
from maya.kernels.ordered_sums import add_tokens

MAX_LABELS = 1023


class CTCLoss(torch.autograd.Function):
    """Losses (B,) of log probabilities (B, S, V) in fp32, by Triton. inf and no gradient without a path."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, transcripts: Transcripts) -> Tensor:
        from maya.kernels.ctc.kernel import ctc_lattice_triton

        tokens = torch.nn.functional.pad(transcripts.targets, (1, 0), value=transcripts.blank)
        index = tokens[:, None].expand(-1, log_probs.shape[1], -1)
        training = ctx.needs_input_grad[0]
        scores = log_probs.gather(2, index)
        log_prob, mass = ctc_lattice_triton(scores, transcripts, with_posteriors=training)
        if mass is not None:
            ctx.save_for_backward(tokens, mass, log_prob)
            ctx.shape = log_probs.shape
        return -log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        tokens, mass, log_prob = ctx.saved_tensors
        scale = grad_loss.masked_fill(log_prob == float("-inf"), 0.0)[:, None, None]
        grad = mass.new_zeros(ctx.shape)
        add_tokens(grad, tokens, -scale * mass)
        return grad, None


__all__ = ["MAX_LABELS", "CTCLoss"]
