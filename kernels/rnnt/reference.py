"""RNN-T loss by its definition (Graves 2012), one cell at a time: the truth for the fast form."""

import torch
from torch import Tensor


def rnnt_loss_reference(
    logits: Tensor,
    targets: Tensor,
    frames: list[int],
    labels: list[int],
    blank: int,
    fastemit: float = 0.0,
    clamp: float | None = None,
) -> Tensor:
    """(B,) losses; arguments as `rnnt_loss`, lengths as lists. Differentiable; slow; give it fp64."""
    if clamp is not None:
        return _ClampedGradient.apply(logits, targets, frames, labels, blank, fastemit, clamp)
    rows = range(logits.shape[0])
    return torch.stack([_row(logits[b], targets[b], frames[b], labels[b], blank, fastemit) for b in rows])


def log_add(terms: list[Tensor]) -> Tensor | None:
    """log sum exp over the terms that are not -inf, or None without any: "no path" carries no gradient."""
    finite = [x for x in terms if x.item() != float("-inf")]
    return torch.logsumexp(torch.stack(finite), 0) if finite else None


def impossible(logits: Tensor) -> Tensor:
    """An infinite loss that is attached to `logits` by a gradient of zero."""
    return logits[..., :0].sum() + float("inf")


def _row(
    logits: Tensor, targets: Tensor, n_frames: int, n_labels: int, blank: int, fastemit: float
) -> Tensor:
    log_probs = logits.log_softmax(-1)
    alpha: dict[tuple[int, int], Tensor | None] = {}
    for t in range(n_frames):
        for u in range(n_labels + 1):
            terms = [logits.new_zeros(())] if t == u == 0 else []
            before = alpha.get((t - 1, u))
            if before is not None:
                terms.append(before + log_probs[t - 1, u, blank])
            before = alpha.get((t, u - 1))
            if before is not None:
                label = log_probs[t, u - 1, targets[u - 1]]
                # The value is unchanged, the gradient grows by 1 + fastemit (Yu et al. 2021).
                terms.append(
                    before + label + fastemit * (label - label.detach()) if fastemit else before + label
                )
            alpha[t, u] = log_add(terms)
    last = alpha.get((n_frames - 1, n_labels))
    if last is None:
        return impossible(logits)
    end = last + log_probs[n_frames - 1, n_labels, blank]
    if end.item() == float("-inf"):
        return impossible(logits)
    return -end - fastemit * end.detach()


class _ClampedGradient(torch.autograd.Function):
    """The same loss, whose gradient is clipped per element before the incoming gradient scales it."""

    @staticmethod
    def forward(ctx, logits, targets, frames, labels, blank, fastemit, clamp):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = rnnt_loss_reference(leaf, targets, frames, labels, blank, fastemit)
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
        ctx.save_for_backward(grad.clamp(-clamp, clamp))
        return loss.detach()

    @staticmethod
    def backward(ctx, grad_loss):  # type: ignore[no-untyped-def]
        (grad,) = ctx.saved_tensors
        return grad * grad_loss[:, None, None, None], None, None, None, None, None, None
