"""Consistency regularisation of CTC (CR-CTC, Yao et al. 2024, arXiv 2410.05101): two augmented views of an
utterance shall be recognised alike.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import check_tensor


def cr_ctc_loss(log_probs_a: Tensor, log_probs_b: Tensor, lens: Tensor) -> Tensor:
    """How far the CTC posteriors of two views are apart, (B,), in nats, summed over the frames.

    The paper's L_CR: 1/2 sum over t of KL(sg(b) || a) + KL(sg(a) || b); sg stops the gradient, so each view
    learns from the other as from a fixed teacher. It is added to the mean of the two views' CTC losses
    with a scale of 0.2 there (0.02 beside a transducer), and wants more time masking than usual.

    log_probs_a, log_probs_b: (B, S, V) logits or log probabilities (they are normalised here) of the same
      frames: what moves frames, such as time warping, must be the same in both views. One float dtype.
    lens: (B,) ints, frames of each row; what lies past them is never read, and its gradient is 0.

    fp64 for fp64 input, fp32 otherwise, also under autocast. 0 for a row without frames; inf, with a finite
    gradient, where one view gives probability 0 to a token that the other finds possible. Makes no tensor as
    large as its input but the gradients. Raises ValueError that names the argument which does not fit.
    """
    op = "cr_ctc_loss"
    check_tensor(op, "log_probs_a", log_probs_a, (None, None, None))
    check_tensor(op, "log_probs_b", log_probs_b, log_probs_a.shape, like=log_probs_a)
    if log_probs_a.dtype != log_probs_b.dtype:
        raise ValueError(f"{op}: log_probs_b is {log_probs_b.dtype}, but log_probs_a is {log_probs_a.dtype}")
    batch, size, _ = log_probs_a.shape
    check_tensor(op, "lens", lens, (batch,), like=None if lens.is_cpu else log_probs_a, floating=False)
    frames: list[int] = lens.tolist()
    if frames and not 0 <= min(frames) <= max(frames) <= size:
        raise ValueError(f"{op}: lens must lie in 0..{size}, not {frames}")
    with torch.autocast(log_probs_a.device.type, enabled=False):
        loss: Tensor = _Consistency.apply(log_probs_a, log_probs_b, frames)
        return loss


class _Consistency(torch.autograd.Function):
    """Works on one utterance at a time and keeps only its inputs, by reference."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, frames: list[int]) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.frames = frames
        loss = torch.zeros(len(frames), dtype=_wide(a), device=a.device)
        for row, of_a, of_b in _normalised(a, b, frames):
            p, q = of_a.exp(), of_b.exp()
            # Both divergences at once; equal probabilities, also two of 0, add nothing.
            loss[row] = 0.5 * torch.where(p == q, 0.0, (p - q) * (of_a - of_b)).sum()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        wanted = zip((a, b), ctx.needs_input_grad[:2], strict=True)
        grads = [torch.zeros_like(x) if ask else None for x, ask in wanted]
        for row, of_a, of_b in _normalised(a, b, ctx.frames):
            # The teacher's part is constant, so all that is left is a cross-entropy with soft targets.
            toward_a = of_a.exp_().sub_(of_b.exp_()).mul_(0.5 * grad_loss[row])
            for grad, sign in zip(grads, (1, -1), strict=True):
                if grad is not None:
                    grad[row, : len(toward_a)] = sign * toward_a
        return grads[0], grads[1], None


def _normalised(a: Tensor, b: Tensor, frames: list[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each row that has frames, with both log softmaxes on them, (frames, V)."""
    for row, t in enumerate(frames):
        if t:
            yield row, a[row, :t].to(_wide(a)).log_softmax(-1), b[row, :t].to(_wide(b)).log_softmax(-1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
