"""What adaptation without texts minimises: functions of CTC logits alone."""

import torch
from torch import Tensor


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """logits (..., V) → (...,) nats: the entropy of each frame's softmax at this temperature."""
    log_probs = (logits / temperature).log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def speech_entropy(logits: Tensor, blank: int, temperature: float) -> Tensor:
    """logits (B, S, V) → (B,): the mean entropy of the frames whose likeliest label is not blank; NaN for a
    row without any. With the other frames in the mean, everything would become blank."""
    spoken = (logits.argmax(-1) != blank).to(logits.dtype)
    return (entropies(logits, temperature) * spoken).sum(1) / spoken.sum(1)


def class_confusion(logits: Tensor, temperature: float) -> Tensor:
    """logits (B, S, V) → (B,): minimum class confusion (Jin et al. 2020, arXiv:1912.03699), as in SUTA.

    C = Pᵀ diag(w) P over the frames, P their softmax, w larger for frames of low entropy and constant for the
    gradient. Each row of C is divided by its sum. The loss is the mean over labels of what is off the
    diagonal: labels that are likely in the same frames.
    """
    probabilities = (logits / temperature).softmax(-1)
    weight = 1.0 + (-entropies(logits, temperature).detach()).exp()
    weight = weight * (weight.shape[1] / weight.sum(1, keepdim=True))
    confusion = torch.einsum("bsv,bs,bsw->bvw", probabilities, weight, probabilities)
    confusion = confusion / confusion.sum(-1, keepdim=True).clamp(min=torch.finfo(confusion.dtype).tiny)
    off_diagonal = confusion.sum((1, 2)) - confusion.diagonal(dim1=1, dim2=2).sum(-1)
    return off_diagonal / logits.shape[-1]
