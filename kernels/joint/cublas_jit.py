"""Triton kernels of the cuBLAS form: they read logits that cuBLAS wrote, a row of the vocabulary at a time.

lattice/kernel.py explains the prefixes of names. Exponentials are in base 2, as in jit.py.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from maya.kernels.joint.jit import CHANGING, LN2, LOWEST
from maya.kernels.triton_common import LOG2E


@triton.jit
def load_logits(p_row, bias, o_v, m_r, stride):
    """Logits (BR, BV) in base 2, fp32, with the bias; -inf from V on, where the bias is, whatever is stored.

    The mask is whole for any V, because rows are `stride` long, a multiple of 16. So loads are 128 bits wide.
    """
    m_v = o_v < stride
    b_bias = tl.load(bias + o_v, mask=m_v, other=float("-inf"))
    b_x = tl.load(p_row + o_v[None, :], mask=m_r[:, None] & m_v[None, :], other=0.0).to(tl.float32)
    b_x = tl.fma(b_x, LOG2E, tl.broadcast_to(b_bias[None, :], b_x.shape))
    return tl.where(b_bias[None, :] == float("-inf"), float("-inf"), b_x)


@triton.jit
def log_sum(p_row, bias, m_r, V, stride, BR: tl.constexpr, BV: tl.constexpr):
    """Maximum of each row, and the logarithm of the sum of exponentials above it, base 2, in one pass."""
    b_max = tl.full((BR,), LOWEST, tl.float32)
    b_sum = tl.zeros((BR,), tl.float32)
    for start in range(0, V, BV):
        b_x = load_logits(p_row, bias, start + tl.arange(0, BV), m_r, stride)
        b_new_max = tl.maximum(b_max, tl.max(b_x, 1))
        b_sum = b_sum * tl.exp2(b_max - b_new_max) + tl.sum(tl.exp2(b_x - b_new_max[:, None]), 1)
        b_max = b_new_max
    return b_max, tl.log2(b_sum)


@triton.jit
def logit_at(p_row, bias, b_v, m_r):
    """The logit of one symbol of each row, (BR,)."""
    b_x = tl.load(p_row + b_v[:, None], mask=m_r[:, None], other=0.0).to(tl.float32)
    b_bias = tl.load(bias + b_v, mask=m_r, other=0.0)
    return tl.fma(tl.sum(b_x, 1), LOG2E, b_bias)


@triton.jit(do_not_specialize=CHANGING)
def row_score_kernel(
    logits,  # [r, stride]
    bias,  # fp32 [stride], times log2 e; -inf from V on
    label,  # int64 [r], -1: none
    norm,  # fp32 [r, 2], out: maximum, and logarithm of the sum of exponentials above it, base 2
    blank_log_prob,  # fp32 [r], out, as label_log_prob
    label_log_prob,
    R, V, stride, blank, BR: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    p_row = logits + o_r.to(tl.int64)[:, None] * stride
    b_max, b_log_sum = log_sum(p_row, bias, m_r, V, stride, BR, BV)
    tl.store(norm + 2 * o_r, b_max, mask=m_r)
    tl.store(norm + 2 * o_r + 1, b_log_sum, mask=m_r)
    b_label = tl.load(label + o_r, mask=m_r, other=-1)
    # The difference of the two large numbers comes first: for a likely symbol it is exact.
    b_x = logit_at(p_row, bias, tl.zeros((BR,), tl.int64) + blank, m_r)
    tl.store(blank_log_prob + o_r, (b_x - b_max - b_log_sum) * LN2, mask=m_r)
    m_label = m_r & (b_label >= 0)
    b_x = logit_at(p_row, bias, b_label, m_label)
    b_log_prob = tl.where(m_label, b_x - b_max - b_log_sum, float("-inf")) * LN2
    tl.store(label_log_prob + o_r, b_log_prob, mask=m_r)


@triton.jit(do_not_specialize=CHANGING)
def row_gradient_kernel(
    logits,  # [r, stride], in and out: d loss / d logits, 0 from V on
    bias, label,
    blank_mass,  # fp32 [r], as label_mass
    label_mass,
    R, V, stride, blank, BR: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    # The rows are normalised anew: cuBLAS may round otherwise in a chunk of another size, and a gradient near
    # 0 needs the norm of these very logits. The second pass reads the rows from the L2 cache.
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    p_row = logits + o_r.to(tl.int64)[:, None] * stride
    b_max, b_log_sum = log_sum(p_row, bias, m_r, V, stride, BR, BV)
    b_blank_mass = tl.load(blank_mass + o_r, mask=m_r, other=0.0)
    b_label_mass = tl.load(label_mass + o_r, mask=m_r, other=0.0)
    b_label = tl.load(label + o_r, mask=m_r, other=-1).to(tl.int32)
    for start in range(0, V, BV):
        o_v = start + tl.arange(0, BV)
        b_x = load_logits(p_row, bias, o_v, m_r, stride)
        b_dx = tl.exp2(b_x - b_max[:, None] - b_log_sum[:, None]) * (b_blank_mass + b_label_mass)[:, None]
        b_dx = tl.where(o_v[None, :] == blank, b_dx - b_blank_mass[:, None], b_dx)
        b_dx = tl.where(o_v[None, :] == b_label[:, None], b_dx - b_label_mass[:, None], b_dx)
        m_out = m_r[:, None] & (o_v < stride)[None, :]
        tl.store(p_row + o_v[None, :], b_dx.to(logits.dtype.element_ty), mask=m_out)
