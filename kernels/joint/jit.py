"""The joint's Triton kernels, which kernel.py launches. lattice/kernel.py explains the prefixes of names.

Exponentials are in base 2, as the hardware computes them. A logit then costs one more fused multiply-add, but
none of the range handling of exp.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import math

import triton
import triton.language as tl

from maya.kernels.joint.dropout import COLUMN_STEP, FRAME_STEP
from maya.kernels.triton_common import LOG2E, sigmoid

# Arguments that change from step to step, so no kernel is compiled for one value.
CHANGING = ("R", "splits", "tiles_per_split", "blank", "seed", "threshold")

LN2 = tl.constexpr(math.log(2))
LOWEST = tl.constexpr(-1e30)  # a maximum over nothing; the difference of two -inf would be nan
GROUP = tl.constexpr(8)  # row tiles that share the tiles of the weight in the L2 cache
FRAME_KEY = tl.constexpr(FRAME_STEP)
COLUMN_KEY = tl.constexpr(COLUMN_STEP)


@triton.jit
def mix(x):
    """`_mix_` of kernels/joint/dropout.py on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def dropout_mask(b_frame, b_state, o_h, seed, threshold):
    """(rows, columns): true for the elements of h that dropout keeps."""
    b_key = mix(b_state.to(tl.uint32) + seed.to(tl.uint32, bitcast=True))
    b_key = mix(b_frame.to(tl.uint32) * FRAME_KEY + b_key)
    b_draw = mix(b_key[:, None] + (o_h.to(tl.uint32) * COLUMN_KEY)[None, :])
    return b_draw >= threshold.to(tl.uint32, bitcast=True)


@triton.jit
def activate(b_z, ACTIVATION: tl.constexpr):
    """The activation; nan stays nan."""
    if ACTIVATION == "relu":
        return tl.where(b_z < 0, 0.0, b_z)
    elif ACTIVATION == "tanh":
        return 2 / (1 + tl.exp2(b_z * (-2 * LOG2E))) - 1
    else:
        return sigmoid(b_z)


@triton.jit
def slope(b_z, ACTIVATION: tl.constexpr):
    """The derivative of the activation."""
    if ACTIVATION == "relu":
        return tl.where(b_z > 0, 1.0, 0.0)
    b_h = activate(b_z, ACTIVATION)
    if ACTIVATION == "tanh":
        return 1 - b_h * b_h
    else:
        return b_h * (1 - b_h)


@triton.jit
def load_sum(f, g, b_frame, b_state, o_h, H, m_h):
    """z = f + g, (rows, columns) fp32, 0 outside the mask."""
    b_f = tl.load(f + b_frame[:, None] * H + o_h[None, :], mask=m_h, other=0.0)
    b_g = tl.load(g + b_state[:, None] * H + o_h[None, :], mask=m_h, other=0.0)
    return b_f.to(tl.float32) + b_g.to(tl.float32)


@triton.jit(do_not_specialize=CHANGING)
def hidden_kernel(
    f,  # [m, h]
    g,  # [n, h]
    frame,  # int64 [r]
    state,  # int64 [r]
    hidden,  # [r, h], out
    R, H, seed, threshold, scale, ACTIVATION: tl.constexpr, DROPOUT: tl.constexpr, BR: tl.constexpr,
    BH: tl.constexpr,
):  # fmt: skip
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    m_r = o_r < R
    m_h = m_r[:, None] & (o_h < H)[None, :]
    b_frame = tl.load(frame + o_r, mask=m_r, other=0)
    b_state = tl.load(state + o_r, mask=m_r, other=0)
    b_h = activate(load_sum(f, g, b_frame, b_state, o_h, H, m_h), ACTIVATION)
    if DROPOUT:
        b_h = tl.where(dropout_mask(b_frame, b_state, o_h, seed, threshold), b_h * scale, 0.0)
    p_out = hidden + o_r.to(tl.int64)[:, None] * H + o_h[None, :]
    tl.store(p_out, b_h.to(hidden.dtype.element_ty), mask=m_h)


@triton.jit
def tile_logits(hidden, weight, bias, o_r, o_v, R, H, V, PRECISION: tl.constexpr, BH: tl.constexpr):
    """Logits of rows o_r and columns o_v in base 2, (BR, BV) fp32; -inf from V on.

    All kernels with the same tiles get the same bits. The loads of the product have no mask: H is a multiple
    of BH, and rows past the end repeat the last one.
    """
    o_h = tl.arange(0, BH)
    p_row = hidden + tl.minimum(o_r, R - 1).to(tl.int64)[:, None] * H + o_h[None, :]
    p_column = weight + tl.minimum(o_v, V - 1).to(tl.int64)[None, :] * H + o_h[:, None]
    b_x = tl.zeros((o_r.shape[0], o_v.shape[0]), tl.float32)
    for i_h in range(0, H, BH):
        b_x = tl.dot(tl.load(p_row + i_h), tl.load(p_column + i_h), b_x, input_precision=PRECISION)
    if bias is None:
        b_bias = tl.where(o_v < V, 0.0, float("-inf"))
    else:
        b_bias = tl.load(bias + o_v, mask=o_v < V, other=float("-inf")).to(tl.float32) * LOG2E
    # An explicit fma, so that all callers round alike.
    return tl.fma(b_x, LOG2E, tl.broadcast_to(b_bias[None, :], b_x.shape))


@triton.jit(do_not_specialize=CHANGING)
def norm_kernel(
    hidden,  # [r, h]
    weight,  # [v, h]
    bias,  # [v] or None
    label,  # int64 [r], -1: none
    partial,  # fp32 [2, split, r], out: maximum over a part of the vocabulary, sum of exponentials above it
    picked,  # fp32 [2, r], out: logits of blank and of the label, if there is one
    R, H, V, tiles_per_split, blank, PRECISION: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr,
    BH: tl.constexpr,
):  # fmt: skip
    # Programs that run together go through the vocabulary together, and so share the weight in the L2 cache.
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    i_split = tl.program_id(1)
    m_r = o_r < R
    b_label = tl.load(label + o_r, mask=m_r, other=-1).to(tl.int32)
    first = i_split * tiles_per_split
    last = tl.minimum(first + tiles_per_split, tl.cdiv(V, BV))
    b_max = tl.full((BR,), LOWEST, tl.float32)
    b_sum = tl.zeros((BR,), tl.float32)
    for i_tile in range(first, last):
        start = i_tile * BV
        o_v = start + tl.arange(0, BV)
        b_x = tile_logits(hidden, weight, bias, o_r, o_v, R, H, V, PRECISION, BH)
        # The label's logit is taken from its tile and not from a product of its own. A product that rounds
        # otherwise would cost a probability near 1 the digits of its distance to 1.
        if (blank >= start) & (blank < start + BV):
            tl.store(picked + o_r, tl.sum(tl.where(o_v[None, :] == blank, b_x, 0.0), 1), mask=m_r)
        m_label = (b_label >= start) & (b_label < start + BV)
        if tl.max(m_label.to(tl.int32), 0) > 0:
            b_picked = tl.sum(tl.where(o_v[None, :] == b_label[:, None], b_x, 0.0), 1)
            tl.store(picked + R + o_r, b_picked, mask=m_label)
        b_new_max = tl.maximum(b_max, tl.max(b_x, 1))
        b_sum = b_sum * tl.exp2(b_max - b_new_max) + tl.sum(tl.exp2(b_x - b_new_max[:, None]), 1)
        b_max = b_new_max
    p_partial = partial + i_split * R + o_r
    tl.store(p_partial, b_max, mask=m_r)
    tl.store(p_partial + tl.num_programs(1) * R, b_sum, mask=m_r)


@triton.jit(do_not_specialize=CHANGING)
def finish_kernel(
    partial, picked, label,
    norm,  # fp32 [r, 2], out: maximum, and logarithm of the sum of exponentials above it, base 2
    blank_log_prob,  # fp32 [r], out, as label_log_prob
    label_log_prob, R, splits, BR: tl.constexpr,
):  # fmt: skip
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    b_max = tl.full((BR,), LOWEST, tl.float32)
    b_sum = tl.zeros((BR,), tl.float32)
    for i_split in range(splits):
        b_split_max = tl.load(partial + i_split * R + o_r, mask=m_r, other=0.0)
        b_split_sum = tl.load(partial + (splits + i_split) * R + o_r, mask=m_r, other=0.0)
        b_new_max = tl.maximum(b_max, b_split_max)
        b_sum = b_sum * tl.exp2(b_max - b_new_max) + b_split_sum * tl.exp2(b_split_max - b_new_max)
        b_max = b_new_max
    b_log_sum = tl.log2(b_sum)
    tl.store(norm + 2 * o_r, b_max, mask=m_r)
    tl.store(norm + 2 * o_r + 1, b_log_sum, mask=m_r)
    # The difference of the two large numbers comes first: for a likely symbol it is exact.
    b_x = tl.load(picked + o_r, mask=m_r, other=0.0)
    tl.store(blank_log_prob + o_r, (b_x - b_max - b_log_sum) * LN2, mask=m_r)
    m_label = m_r & (tl.load(label + o_r, mask=m_r, other=-1) >= 0)
    b_x = tl.load(picked + R + o_r, mask=m_label, other=float("-inf"))
    b_log_prob = tl.where(m_label, b_x - b_max - b_log_sum, float("-inf")) * LN2
    tl.store(label_log_prob + o_r, b_log_prob, mask=m_r)


@triton.jit(do_not_specialize=CHANGING)
def logit_gradient_kernel(
    hidden, weight, bias, label, norm,
    blank_mass,  # fp32 [r], as label_mass
    label_mass,
    out,  # [r, v] (by `stride`): softmax * both masses - blank_mass at blank - label_mass at label
    sums,  # fp32 [row tile, v] or None, out
    R, H, V, stride, blank, PRECISION: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    i_program = tl.program_id(0)
    row_tiles = tl.cdiv(R, BR)
    column_tiles = tl.cdiv(V, BV)
    first_row_tile = i_program // (GROUP * column_tiles) * GROUP
    group_rows = tl.minimum(row_tiles - first_row_tile, GROUP)
    i_row_tile = first_row_tile + i_program % (GROUP * column_tiles) % group_rows
    i_column_tile = i_program % (GROUP * column_tiles) // group_rows
    o_r = i_row_tile * BR + tl.arange(0, BR)
    o_v = i_column_tile * BV + tl.arange(0, BV)
    m_r = o_r < R
    b_x = tile_logits(hidden, weight, bias, o_r, o_v, R, H, V, PRECISION, BH)
    b_max = tl.load(norm + 2 * o_r, mask=m_r, other=float("inf"))
    b_log_sum = tl.load(norm + 2 * o_r + 1, mask=m_r, other=0.0)
    b_blank_mass = tl.load(blank_mass + o_r, mask=m_r, other=0.0)
    b_label_mass = tl.load(label_mass + o_r, mask=m_r, other=0.0)
    b_label = tl.load(label + o_r, mask=m_r, other=-1).to(tl.int32)
    b_dx = tl.exp2(b_x - b_max[:, None] - b_log_sum[:, None]) * (b_blank_mass + b_label_mass)[:, None]
    b_dx -= tl.where(o_v[None, :] == blank, b_blank_mass[:, None], 0.0)
    b_dx -= tl.where(o_v[None, :] == b_label[:, None], b_label_mass[:, None], 0.0)
    if sums is not None:
        tl.store(sums + i_row_tile.to(tl.int64) * V + o_v, tl.sum(b_dx, 0), mask=o_v < V)
    p_out = out + o_r.to(tl.int64)[:, None] * stride + o_v[None, :]
    tl.store(p_out, b_dx.to(out.dtype.element_ty), mask=m_r[:, None] & (o_v < V)[None, :])


@triton.jit(do_not_specialize=CHANGING)
def segment_kernel(
    f, g,
    dh,  # fp32 [r, h]
    frame, state,
    order,  # int64 [r]: rows sorted by the target to which they are added
    starts,  # int64 [m + 1]: the first position of each target's rows in `order`
    out,  # fp32 [m, h], added to
    H, seed, threshold, scale, ACTIVATION: tl.constexpr, DROPOUT: tl.constexpr, BR: tl.constexpr,
    BH: tl.constexpr,
):  # fmt: skip
    i_target = tl.program_id(0).to(tl.int64)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    first = tl.load(starts + i_target)
    last = tl.load(starts + i_target + 1)
    b_sum = tl.zeros((BR, BH), tl.float32)
    for start in range(first, last, BR):
        o_i = start + tl.arange(0, BR)
        b_r = tl.load(order + o_i, mask=o_i < last, other=0)
        b_frame = tl.load(frame + b_r)
        b_state = tl.load(state + b_r)
        m_h = (o_i < last)[:, None] & (o_h < H)[None, :]
        b_dz = tl.load(dh + b_r[:, None] * H + o_h[None, :], mask=m_h, other=0.0)
        b_dz *= slope(load_sum(f, g, b_frame, b_state, o_h, H, m_h), ACTIVATION)
        if DROPOUT:
            b_dz *= tl.where(dropout_mask(b_frame, b_state, o_h, seed, threshold), scale, 0.0)
        b_sum += b_dz
    if first < last:
        p_out = out + i_target * H + o_h
        tl.store(p_out, tl.load(p_out, mask=o_h < H) + tl.sum(b_sum, 0), mask=o_h < H)
