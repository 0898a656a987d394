"""Weak cells of the simple lattice in Triton. lattice/kernel.py explains the prefixes of names.

A program has a row of cells, (b, s) or (b, u), and returns at once if none is weak. Almost all do: a launch
costs about what it takes to read the mask. Sums are in a fixed order, without atomics.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from maya.kernels.triton_common import launching_on

VOCAB_BLOCK = 1024
WARPS = 4


@triton.jit
def weak_norm_kernel(
    p_am, p_lm, p_small, p_norm, size, width, vocab, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Program (b, s). norm = log sum exp(am + lm) of the cells where `small` is not 0, in nats."""
    i_row = tl.program_id(0).to(tl.int64)
    i_utterance = i_row // size
    o_cell = tl.arange(0, WIDTH)
    b_small = tl.load(p_small + i_row * width + o_cell, mask=o_cell < width, other=0)
    if tl.max(b_small.to(tl.int32)) > 0:
        p_am += i_row * vocab
        for i_cell in range(width):
            if tl.load(p_small + i_row * width + i_cell) != 0:
                p_other = p_lm + (i_utterance * width + i_cell) * vocab
                peak, total = float("-inf"), 0.0
                for o_start in range(0, vocab, BLOCK):
                    o_token = o_start + tl.arange(0, BLOCK)
                    m_token = o_token < vocab
                    b_am = tl.load(p_am + o_token, mask=m_token, other=float("-inf")).to(tl.float32)
                    b_x = b_am + tl.load(p_other + o_token, mask=m_token, other=0.0).to(tl.float32)
                    higher = tl.maximum(peak, tl.max(b_x))
                    offset = tl.where(higher == float("-inf"), 0.0, higher)
                    total = total * tl.exp(peak - offset) + tl.sum(tl.exp(b_x - offset))
                    peak = higher
                offset = tl.where(peak == float("-inf"), 0.0, peak)
                tl.store(p_norm + i_row * width + i_cell, offset + tl.log(total))


@triton.jit
def weak_gradient_kernel(
    p_x, p_y, p_norm, p_mass, p_grad, rows, others, cells, stride_row, stride_other, vocab,
    OTHERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (b, row) of x (B, rows, V): grad += sum over the `others` of mass * exp(x + y - norm).

    y: (B, others, V). norm, mass: (B, cells), the cell of (row, other) at row * stride_row + other *
    stride_other; without mass, norm is not read.
    """
    i_row = tl.program_id(0).to(tl.int64)
    i_utterance = i_row // rows
    o_first = i_utterance * cells + (i_row % rows) * stride_row
    o_cell = tl.arange(0, OTHERS)
    b_mass = tl.load(p_mass + o_first + o_cell * stride_other, mask=o_cell < others, other=0.0)
    if tl.max((b_mass != 0).to(tl.int32)) > 0:
        p_x += i_row * vocab
        p_grad += i_row * vocab
        p_y += i_utterance * others * vocab
        for o_start in range(0, vocab, BLOCK):
            o_token = o_start + tl.arange(0, BLOCK)
            m_token = o_token < vocab
            b_x = tl.load(p_x + o_token, mask=m_token, other=float("-inf")).to(tl.float32)
            b_grad = tl.load(p_grad + o_token, mask=m_token, other=0.0)
            for i_cell in range(others):
                o_mass = o_first + i_cell * stride_other
                mass = tl.load(p_mass + o_mass)
                if mass != 0:
                    b_y = tl.load(p_y + i_cell * vocab + o_token, mask=m_token, other=0.0).to(tl.float32)
                    b_grad += mass * tl.exp(b_x + b_y - tl.load(p_norm + o_mass))
            tl.store(p_grad + o_token, b_grad, mask=m_token)


def weak_norms(am: Tensor, lm: Tensor, small: Tensor) -> Tensor:
    """log sum exp(am + lm), (B, S, U+1) fp32, in the cells where `small` is True; anything elsewhere."""
    am, lm = am.contiguous(), lm.contiguous()
    (batch, size, vocab), width = am.shape, lm.shape[1]
    norm = torch.empty(batch, size, width, dtype=torch.float32, device=am.device)
    with launching_on(am):
        if norm.numel():
            weak_norm_kernel[(batch * size,)](
                am, lm, small.contiguous().view(torch.uint8), norm, size, width, vocab,
                WIDTH=triton.next_power_of_2(width), BLOCK=_block(vocab), num_warps=WARPS,
            )  # fmt: skip
    return norm


def add_weak_gradients(
    am: Tensor, lm: Tensor, norm: Tensor, mass: Tensor, grad_am: Tensor, grad_lm: Tensor
) -> None:
    """grad_am (B, S, V) and grad_lm (B, U+1, V), fp32, plus mass * exp(am + lm - norm), summed over cells.

    norm, mass: (B, S, U+1) fp32, mass 0 in the cells that do not count.
    """
    am, lm, mass = am.contiguous(), lm.contiguous(), mass.contiguous()
    (batch, size, vocab), width = am.shape, lm.shape[1]
    if not mass.numel():
        return
    cells = size * width
    sides = ((am, lm, grad_am, size, width, width, 1), (lm, am, grad_lm, width, size, 1, width))
    with launching_on(am):
        for x, y, grad, rows, others, stride_row, stride_other in sides:
            weak_gradient_kernel[(batch * rows,)](
                x, y, norm, mass, grad, rows, others, cells, stride_row, stride_other, vocab,
                OTHERS=triton.next_power_of_2(others), BLOCK=_block(vocab), num_warps=WARPS,
            )  # fmt: skip


def _block(vocab: int) -> int:
    return min(VOCAB_BLOCK, triton.next_power_of_2(vocab))
