"""Consistency regularisation of CTC (CR-CTC, Yao et al. 2024, arXiv 2410.05101): the posteriors of two
augmented views of an utterance are pulled together.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import check_lens, check_tensor


def cr_ctc_loss(log_probs_a: Tensor, log_probs_b: Tensor, lens: Tensor) -> Tensor:
    """Divergence of the CTC posteriors of two views, (B,), in nats, summed over the frames.

    The paper's L_CR: 1/2 sum over t of KL(sg(b) || a) + KL(sg(a) || b). sg stops the gradient, so each view
    learns from the other as from a fixed teacher. The paper adds it to the mean of the two views' CTC losses
    with a scale of 0.2 (0.02 beside a transducer), and uses more time masking than usual.

    log_probs_a, log_probs_b: (B, S, V) logits or log probabilities (they are normalised here) of the same
      frames. An augmentation that moves frames, such as time warping, must be equal in both views. One float
      dtype.
    lens: (B,) ints, frames of each row. Values past them are never read, and their gradient is 0.

    fp64 for fp64 input, fp32 otherwise, also under autocast. 0 for a row without frames; inf, with a finite
    gradient, if one view gives probability 0 to a token that is possible in the other. The gradients are the
    only tensors as large as the input. Raises ValueError that names the argument.
    """
    op = "cr_ctc_loss"
    check_tensor(op, "log_probs_a", log_probs_a, (None, None, None))
    check_tensor(op, "log_probs_b", log_probs_b, log_probs_a.shape, like=log_probs_a)
    if log_probs_a.dtype != log_probs_b.dtype:
        raise ValueError(f"{op}: log_probs_b is {log_probs_b.dtype}, but log_probs_a is {log_probs_a.dtype}")
    batch, size, _ = log_probs_a.shape
    frames = check_lens(op, "lens", lens, batch, size, log_probs_a)
    with torch.autocast(log_probs_a.device.type, enabled=False):
        loss: Tensor = _Consistency.apply(log_probs_a, log_probs_b, frames)
        return loss


class _Consistency(torch.autograd.Function):
    """Computes one utterance at a time and saves only its inputs, by reference."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, frames: list[int]) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.frames = frames
        loss = torch.zeros(len(frames), dtype=_wide(a), device=a.device)
        for row, of_a, of_b in _normalised(a, b, frames):
            p, q = of_a.exp(), of_b.exp()
            # Both divergences at once. Equal probabilities, also two zeros, add nothing.
            loss[row] = 0.5 * torch.where(p == q, 0.0, (p - q) * (of_a - of_b)).sum()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        inputs = zip((a, b), ctx.needs_input_grad[:2], strict=True)
        grads = [torch.zeros_like(x) if needed else None for x, needed in inputs]
        for row, of_a, of_b in _normalised(a, b, ctx.frames):
            # The teacher's part is constant, so this is a cross-entropy with soft targets.
            toward_a = of_a.exp_().sub_(of_b.exp_()).mul_(0.5 * grad_loss[row])
            for grad, sign in zip(grads, (1, -1), strict=True):
                if grad is not None:
                    grad[row, : len(toward_a)] = sign * toward_a
        return grads[0], grads[1], None


def _normalised(a: Tensor, b: Tensor, frames: list[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Rows that have frames, with the log softmaxes of both views, (frames, V)."""
    for row, t in enumerate(frames):
        if t:
            yield row, a[row, :t].to(_wide(a)).log_softmax(-1), b[row, :t].to(_wide(b)).log_softmax(-1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
