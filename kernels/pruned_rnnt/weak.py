"""Cells of the simple lattice whose sum of exponentials lost digits to underflow: their logits are computed
one by one. There are few, and in most batches none.

`ListedCells` has their list, for which the host reads their number. `MaskedCells` has a mask, and Triton
kernels that skip what it leaves out, so that the host waits for no device.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.precision import compute_dtype
from maya.kernels.slices import slices

DIRECT_ELEMENTS = 1 << 20  # logits computed at once

Cells = tuple[Tensor, Tensor, Tensor]  # indices b, s, u


class WeakCells(ABC):
    """The cells, and the log-sum-exp of am + lm in each."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The arguments of the class, to be saved for the backward pass."""

    @abstractmethod
    def put_norms(self, norm: Tensor, am_peak: Tensor, lm_peak: Tensor) -> Tensor:
        """norm (B, S, U+1) with the log-sum-exp of these cells, less the peaks am (B, S) and lm (B, U+1)."""

    @abstractmethod
    def cleared(self, weight: Tensor) -> Tensor:
        """weight (B, S, U+1) with 0 in these cells, in place."""

    @abstractmethod
    def add_gradients(self, am: Tensor, lm: Tensor, mass: Tensor, grad_am: Tensor, grad_lm: Tensor) -> None:
        """Adds mass (B, S, U+1) times the softmax of am + lm in these cells to both gradients."""


def find_weak(am: Tensor, lm: Tensor, small: Tensor, backend: str) -> WeakCells:
    """The cells where `small` (B, S, U+1) is True. am (B, S, V), lm (B, U+1, V)."""
    if backend == "triton" and am.dtype != torch.float64:
        from maya.kernels.pruned_rnnt.weak_kernel import weak_norms

        return MaskedCells(small, weak_norms(am, lm, small))
    b, s, u = small.nonzero(as_tuple=True)
    cells = (b, s, u)
    norms = [torch.logsumexp(_logits(am, lm, block), -1) for block in _blocks(cells, am.shape[2])]
    empty = am.new_empty(0, dtype=compute_dtype(am.dtype))
    return ListedCells(torch.cat(norms) if norms else empty, *cells)


@dataclass(slots=True)
class ListedCells(WeakCells):
    """norm: (cells,). b, s, u: (cells,) int64."""

    norm: Tensor
    b: Tensor
    s: Tensor
    u: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.norm, self.b, self.s, self.u

    def put_norms(self, norm: Tensor, am_peak: Tensor, lm_peak: Tensor) -> Tensor:
        b, s, u = self.b, self.s, self.u
        norm[b, s, u] = self.norm.to(norm.dtype) - am_peak[b, s] - lm_peak[b, u]
        return norm

    def cleared(self, weight: Tensor) -> Tensor:
        weight[self.b, self.s, self.u] = 0.0
        return weight

    def add_gradients(self, am: Tensor, lm: Tensor, mass: Tensor, grad_am: Tensor, grad_lm: Tensor) -> None:
        keep = mass[self.b, self.s, self.u] != 0
        cells, norms, done = (self.b[keep], self.s[keep], self.u[keep]), self.norm[keep], 0
        for b, s, u in _blocks(cells, am.shape[2]):
            logits = _logits(am, lm, (b, s, u))
            share = (logits - norms[done : done + len(logits), None]).exp_().mul_(mass[b, s, u][:, None])
            grad_am.index_put_((b, s), share, accumulate=True)
            grad_lm.index_put_((b, u), share, accumulate=True)
            done += len(logits)


@dataclass(slots=True)
class MaskedCells(WeakCells):
    """mask: (B, S, U+1) bool. norm: (B, S, U+1), read where `mask` is True."""

    mask: Tensor
    norm: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.mask, self.norm

    def put_norms(self, norm: Tensor, am_peak: Tensor, lm_peak: Tensor) -> Tensor:
        direct = self.norm.to(norm.dtype) - am_peak[..., None] - lm_peak[:, None]
        return torch.where(self.mask, direct, norm)

    def cleared(self, weight: Tensor) -> Tensor:
        return weight.masked_fill_(self.mask, 0.0)

    def add_gradients(self, am: Tensor, lm: Tensor, mass: Tensor, grad_am: Tensor, grad_lm: Tensor) -> None:
        from maya.kernels.pruned_rnnt.weak_kernel import add_weak_gradients

        add_weak_gradients(am, lm, self.norm, mass.masked_fill(~self.mask, 0.0), grad_am, grad_lm)


def _blocks(cells: Cells, vocab: int) -> Iterator[Cells]:
    for part in slices(len(cells[0]), DIRECT_ELEMENTS // vocab):
        b, s, u = (index[part] for index in cells)
        yield b, s, u


def _logits(am: Tensor, lm: Tensor, cells: Cells) -> Tensor:
    """(cells, V), in the precision of sums."""
    b, s, u = cells
    dtype = compute_dtype(am.dtype)
    return am[b, s].to(dtype) + lm[b, u].to(dtype)
