"""RNN-T loss by its definition (Graves 2012), one node at a time: the truth for the fast form."""

from typing import Any

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.lattice.reference import impossible, lattice_log_prob, next_labels


def rnnt_loss_reference(
    logits: Tensor, transcripts: Transcripts, fastemit: float = 0.0, clamp: float | None = None
) -> Tensor:
    """(B,) losses of logits (B, S, U+1, V). Differentiable; slow; meant for fp64."""
    if clamp is not None:
        return _ClampedGradient.apply(logits, transcripts, fastemit, clamp)
    return torch.stack([_row(logits[b], transcripts, b, fastemit) for b in range(logits.shape[0])])


def _row(logits: Tensor, transcripts: Transcripts, b: int, fastemit: float) -> Tensor:
    frames, labels = transcripts.frames[b], transcripts.labels[b]
    log_probs = logits[:frames, : labels + 1].log_softmax(-1)
    index = next_labels(transcripts.targets[b, :labels])[None, :, None].expand(frames, -1, 1)
    label = log_probs.gather(-1, index)[..., 0]
    if fastemit:  # the value is unchanged, the gradient grows by 1 + fastemit (Yu et al. 2021)
        label = label + fastemit * (label - label.detach())
    log_prob = lattice_log_prob({1: log_probs[..., transcripts.blank]}, {0: label}, frames, labels)
    if log_prob is None:
        return impossible(logits)
    return -log_prob - fastemit * log_prob.detach()


class _ClampedGradient(torch.autograd.Function):
    """The same loss; each element of its gradient is clipped before the incoming gradient scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, transcripts: Transcripts, fastemit: float, clamp: float) -> Tensor:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = rnnt_loss_reference(leaf, transcripts, fastemit)
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
        ctx.save_for_backward(grad.clamp(-clamp, clamp))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss[:, None, None, None], None, None, None
