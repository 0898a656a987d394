"""Problems of pruned RNN-T, and each of its losses with all its gradients."""

from typing import Any

import torch
from torch import Tensor

from maya.kernels.pruned_rnnt import (
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    simple_rnnt_loss,
)

INF = float("inf")
BLANK = 2  # in the middle of the vocabulary: nothing may rely on its being first or last
BACKENDS = ["reference", "torch"]
SMOOTHING = [(0.0, 0.0), (0.25, 0.0), (0.2, 0.1), (1.0, 0.0), (0.0, 1.0)]


def problem(
    frames: list[int], labels: list[int], vocab: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """am, lm, targets and lengths of a ragged batch; one frame and one label more padding than needed."""
    size, width = max(frames) + 1, max(labels) + 1
    am, lm = (2 * torch.randn(len(frames), n, vocab, dtype=dtype) for n in (size, width + 1))
    targets = torch.randint(vocab - 1, (len(frames), width))
    targets += (targets >= BLANK).long()
    return am, lm, targets, torch.tensor(frames), torch.tensor(labels)


def joint_problem(vocab: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """f, g, weight, bias, targets and lengths."""
    f, g, targets, *lens = problem([9, 6, 1, 4], [5, 2, 1, 0], vocab=8, dtype=dtype)
    return f, g, torch.randn(vocab, 8, dtype=dtype), torch.randn(vocab, dtype=dtype), targets, *lens


def some_ranges(
    frames: Tensor, labels: Tensor, size: int, width: int, s_range: int, rnnt_type: str
) -> Tensor:
    """Windows that random occupations ask for."""
    px, py = torch.rand(2, len(frames), size, width)
    return prune_ranges(px, py, frames, labels, s_range=s_range, rnnt_type=rnnt_type)


def at_windows(logits: Tensor, ranges: Tensor) -> Tensor:
    return logits.gather(2, ranges[..., None].expand(*ranges.shape, logits.shape[3]))


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def simple(
    am: Tensor, lm: Tensor, *args: Tensor, weights: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, both occupations, and the gradients of am and lm."""
    am, lm = leaf(am), leaf(lm)
    loss, px, py = simple_rnnt_loss(am, lm, *args, blank=BLANK, **options)
    loss.backward(torch.ones_like(loss) if weights is None else weights.to(loss))
    grads = (torch.zeros_like(x) if x.grad is None else x.grad for x in (am, lm))
    return loss.detach(), px, py, *grads


def pruned(
    logits: Tensor, *args: Tensor, weights: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    logits = leaf(logits)
    loss = pruned_rnnt_loss(logits, *args, blank=BLANK, **options)
    loss.backward(torch.ones_like(loss) if weights is None else weights.to(loss))
    return loss.detach(), logits.grad


def fused(f: Tensor, g: Tensor, *args: Tensor, **options: Any) -> list[Tensor]:
    """Loss, and the gradients of f, g, weight and bias."""
    leaves = [leaf(x) for x in (f, g, *args[:2])]
    loss = fused_pruned_rnnt_loss(*leaves, *args[2:], blank=BLANK, **options)
    loss.sum().backward()
    return [loss.detach(), *(x.grad for x in leaves)]
