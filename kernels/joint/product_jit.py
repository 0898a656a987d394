"""Triton kernels of the products with d loss / d logits. kernel.py launches them for counted rows.

cuBLAS takes the number of rows from the host. These kernels read it on the device, and programs with nothing
to do return at once. lattice/kernel.py explains the prefixes of names.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from maya.kernels.joint.jit import CHANGING, visited_rows


@triton.jit(do_not_specialize=CHANGING)
def weight_gradient_kernel(
    dx,  # [row tile * r, column tile * v]: d loss / d logits, 0 in the rest of the last visited tile
    hidden,  # [row tile * r, h]
    out,  # fp32 [v, h], added to
    count,  # int64 [1] or None
    R, H, V, stride, PRECISION: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """dW += dx^T h. Programs that run together share columns of dx in the L2 cache.

    The sum begins with dW. To add it at the end would take 32 registers of a thread more.
    """
    R = visited_rows(count, R)
    if R == 0:
        return
    h_tiles = tl.cdiv(H, BH)
    o_v = tl.program_id(0) // h_tiles * BV + tl.arange(0, BV)
    o_h = tl.program_id(0) % h_tiles * BH + tl.arange(0, BH)
    o_r = tl.arange(0, BR)
    m_h = o_h < H
    o_dx = o_r[:, None] * stride + o_v[None, :]
    o_hidden = o_r[:, None] * H + o_h[None, :]
    p_out = out + o_v.to(tl.int64)[:, None] * H + o_h[None, :]
    m_out = (o_v < V)[:, None] & m_h[None, :]
    b_sum = tl.load(p_out, mask=m_out, other=0.0)
    for _ in range(0, R, BR):
        b_h = tl.load(hidden + o_hidden, mask=m_h[None, :], other=0.0)
        b_sum = tl.dot(tl.trans(tl.load(dx + o_dx)), b_h, b_sum, input_precision=PRECISION)
        dx += stride.to(tl.int64) * BR
        hidden += H * BR
    tl.store(p_out, b_sum, mask=m_out)


@triton.jit(do_not_specialize=CHANGING)
def hidden_gradient_kernel(
    dx,  # as above
    weight,  # [v, h]
    out,  # fp32 [row tile * r, h], out; row tiles that are not visited are not written
    count, R, H, V, stride, PRECISION: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr,
    BH: tl.constexpr,
):  # fmt: skip
    """dh = dx W. Programs that run together share rows of dx in the L2 cache."""
    R = visited_rows(count, R)
    h_tiles = tl.cdiv(H, BH)
    first_row = tl.program_id(0) // h_tiles * BR
    if first_row >= R:
        return
    o_r = first_row + tl.arange(0, BR)
    o_h = tl.program_id(0) % h_tiles * BH + tl.arange(0, BH)
    o_v = tl.arange(0, BV)
    m_h = o_h < H
    p_dx = dx + o_r.to(tl.int64)[:, None] * stride + o_v[None, :]
    p_w = weight + o_v[:, None] * H + o_h[None, :]
    b_sum = tl.zeros((BR, BH), tl.float32)
    for i_v in range(0, V, BV):
        b_w = tl.load(p_w, mask=(o_v < V - i_v)[:, None] & m_h[None, :], other=0.0)
        b_sum = tl.dot(tl.load(p_dx), b_w, b_sum, input_precision=PRECISION)
        p_dx += BV
        p_w += H * BV
    tl.store(out + o_r.to(tl.int64)[:, None] * H + o_h[None, :], b_sum, mask=m_h[None, :])


@triton.jit(do_not_specialize=CHANGING)
def bias_gradient_kernel(
    sums,  # fp32 [row tile, column tile * v]: sums of dx over the rows of a tile of ROWS rows
    out,  # fp32 [v], added to
    count, R, V, stride, ROWS: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """dc += the sums of all visited tiles, in their order."""
    R = visited_rows(count, R)
    o_v = tl.program_id(0) * BV + tl.arange(0, BV)
    tiles = tl.cdiv(R, ROWS)
    b_sum = tl.zeros((BT, BV), tl.float32)
    for start in range(0, tiles, BT):
        o_t = start + tl.arange(0, BT)
        m_t = (o_t < tiles)[:, None] & (o_v < stride)[None, :]
        b_sum += tl.load(sums + o_t.to(tl.int64)[:, None] * stride + o_v[None, :], mask=m_t, other=0.0)
    if R > 0:
        m_v = o_v < V
        tl.store(out + o_v, tl.load(out + o_v, mask=m_v, other=0.0) + tl.sum(b_sum, 0), mask=m_v)
