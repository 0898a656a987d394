"""LaCT's Triton kernels, which kernel.py launches. lattice/kernel.py explains the prefixes of names.

n is a head of an utterance, t a frame of the span, d a channel, e a hidden channel; `up` is w0 over w2. Sums
are in fp32. L is the number of frames between two heads in the tensors that are read: T if they are
contiguous, more if they are a span of longer ones.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from maya.kernels.triton_common import sigmoid

# Arguments that change from span to span, so no kernel is compiled for one value.
CHANGING = ("T", "L")

TINY = tl.constexpr(1e-37)  # keeps 0 / 0 at 0


@triton.jit
def span_tile(E, BT: tl.constexpr, BE: tl.constexpr):
    """The head, frames and hidden channels of a program; neighbours share frames and weights."""
    i_n = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(E, BE)
    o_t = tl.program_id(0) // tiles * BT + tl.arange(0, BT)
    o_e = tl.program_id(0) % tiles * BE + tl.arange(0, BE)
    return i_n, o_t, o_e


@triton.jit(do_not_specialize=CHANGING)
def gather_kernel(
    x,  # [b, t, h, c], any strides
    mask,  # bool [b, t] or None: true
    out,  # [b h, t, c]: x, 0 where the mask is false
    T, H, C, stride_b, stride_t, stride_h, stride_c, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    i_n = tl.program_id(1).to(tl.int64)
    o_t = tl.program_id(0) * BT + tl.arange(0, BT)
    o_c = tl.arange(0, BC)
    m_t = o_t < T
    m_read = m_t
    if mask is not None:
        m_read = tl.load(mask + i_n // H * T + o_t, mask=m_t, other=False)
    p_x = x + i_n // H * stride_b + i_n % H * stride_h + o_t[:, None].to(tl.int64) * stride_t
    b_x = tl.load(p_x + o_c[None, :] * stride_c, mask=m_read[:, None] & (o_c < C)[None, :], other=0.0)
    p_out = out + (i_n * T + o_t)[:, None] * C + o_c[None, :]
    tl.store(p_out, b_x, mask=m_t[:, None] & (o_c < C)[None, :])


@triton.jit(do_not_specialize=CHANGING)
def swiglu_kernel(
    x,  # [n, t of L, d]
    up,  # [n, 2 e, d]
    out,  # [n, t, e]: silu(w0 x) * (w2 x)
    T, L, E, D, PRECISION: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_n, o_t, o_e = span_tile(E, BT, BE)
    o_d = tl.arange(0, BD)
    # Rows past the end repeat the last one; channels past the end are 0 on both sides.
    p_x = x + (i_n * L + tl.minimum(o_t, T - 1))[:, None] * D + o_d[None, :]
    p_w = up + (i_n * 2 * E + tl.minimum(o_e, E - 1))[None, :] * D + o_d[:, None]
    b_a = tl.zeros((BT, BE), tl.float32)
    b_c = tl.zeros((BT, BE), tl.float32)
    for i_d in range(0, D, BD):
        m_d = i_d + o_d < D
        b_x = tl.load(p_x + i_d, mask=m_d[None, :], other=0.0)
        b_w0 = tl.load(p_w + i_d, mask=m_d[:, None], other=0.0)
        b_a = tl.dot(b_x, b_w0, b_a, input_precision=PRECISION)
        b_w2 = tl.load(p_w + E * D + i_d, mask=m_d[:, None], other=0.0)
        b_c = tl.dot(b_x, b_w2, b_c, input_precision=PRECISION)
    p_out = out + (i_n * T + o_t)[:, None] * E + o_e[None, :]
    b_h = b_a * sigmoid(b_a) * b_c
    tl.store(p_out, b_h.to(out.dtype.element_ty), mask=(o_t < T)[:, None] & (o_e < E)[None, :])


@triton.jit(do_not_specialize=CHANGING)
def terms_kernel(
    x,  # [n, t of L, d], as y
    y, up,
    down,  # [n, d, e]
    rates,  # fp32 [n, t of L, 3] or None: 1
    share,  # fp32 [n] or None: a factor on all rates
    halves,  # [n, t, 2 e], out: the factors of the gradients of w0 and w2, beside x
    out,  # [n, t, e], out: the hidden layer times its rate
    ac,  # [n, t, 2 e] or None, out: w0 x and w2 x
    delta,  # [n, t, e] or None, out: w1^T y
    T, L, E, D, PRECISION: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_n, o_t, o_e = span_tile(E, BT, BE)
    o_d = tl.arange(0, BD)
    m_e = o_e < E
    o_row = (i_n * L + tl.minimum(o_t, T - 1))[:, None] * D + o_d[None, :]
    p_up = up + (i_n * 2 * E + tl.minimum(o_e, E - 1))[None, :] * D + o_d[:, None]
    # A minimum in the contiguous axis would hide from the compiler that the addresses are consecutive: the
    # loads would be of 2 bytes and not pipelined. So this one is masked.
    p_down = down + i_n * D * E + o_d[:, None] * E + o_e[None, :]
    b_a = tl.zeros((BT, BE), tl.float32)
    b_c = tl.zeros((BT, BE), tl.float32)
    b_delta = tl.zeros((BT, BE), tl.float32)
    for i_d in range(0, D, BD):
        m_d = i_d + o_d < D
        b_x = tl.load(x + o_row + i_d, mask=m_d[None, :], other=0.0)
        b_w0 = tl.load(p_up + i_d, mask=m_d[:, None], other=0.0)
        b_a = tl.dot(b_x, b_w0, b_a, input_precision=PRECISION)
        b_w2 = tl.load(p_up + E * D + i_d, mask=m_d[:, None], other=0.0)
        b_c = tl.dot(b_x, b_w2, b_c, input_precision=PRECISION)
        b_y = tl.load(y + o_row + i_d, mask=m_d[None, :], other=0.0)
        b_w1 = tl.load(p_down + i_d * E, mask=m_d[:, None] & m_e[None, :], other=0.0)
        b_delta = tl.dot(b_y, b_w1, b_delta, input_precision=PRECISION)
    m_t = o_t < T
    m_te = m_t[:, None] & m_e[None, :]
    o_frame = i_n * T + o_t
    o_wide = o_frame[:, None] * 2 * E + o_e[None, :]
    o_out = o_frame[:, None] * E + o_e[None, :]
    if ac is not None:
        tl.store(ac + o_wide, b_a.to(ac.dtype.element_ty), mask=m_te)
        tl.store(ac + o_wide + E, b_c.to(ac.dtype.element_ty), mask=m_te)
        tl.store(delta + o_out, b_delta.to(delta.dtype.element_ty), mask=m_te)
    b_sigmoid = sigmoid(b_a)
    b_silu = b_a * b_sigmoid
    b_half0 = b_delta * b_c * (b_sigmoid + b_silu * (1 - b_sigmoid))
    b_half2 = b_delta * b_silu
    b_h = b_silu * b_c
    if rates is not None:
        p_rate = rates + (i_n * L + o_t) * 3
        factor = 1.0
        if share is not None:
            factor = tl.load(share + i_n)
        b_half0 *= tl.load(p_rate, mask=m_t, other=0.0)[:, None] * factor
        b_h *= tl.load(p_rate + 1, mask=m_t, other=0.0)[:, None] * factor
        b_half2 *= tl.load(p_rate + 2, mask=m_t, other=0.0)[:, None] * factor
    tl.store(halves + o_wide, b_half0.to(halves.dtype.element_ty), mask=m_te)
    tl.store(halves + o_wide + E, b_half2.to(halves.dtype.element_ty), mask=m_te)
    tl.store(out + o_out, b_h.to(out.dtype.element_ty), mask=m_te)


@triton.jit(do_not_specialize=CHANGING)
def second_order_kernel(
    ac,  # [n, t, 2 e]: w0 x and w2 x
    delta,  # [n, t, e]
    rates,  # fp32 [n, t of L, 3]
    share,  # fp32 [n] or None: a factor on all rates
    dhalves,  # [n, t, 2 e]: gradients of the halves
    dhidden,  # [n, t, e]: gradient of the hidden layer times its rate
    dac,  # [n, t, 2 e], out: gradients of w0 x and w2 x
    ddelta,  # [n, t, e], out
    drates,  # fp32 [n, t of L, 3], out
    T, L, E, BT: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    i_n = tl.program_id(1).to(tl.int64)
    o_t = tl.program_id(0) * BT + tl.arange(0, BT)
    m_t = o_t < T
    factor = 1.0
    if share is not None:
        factor = tl.load(share + i_n)
    o_rate = (i_n * L + o_t) * 3
    b_rate0 = tl.load(rates + o_rate, mask=m_t, other=0.0)[:, None] * factor
    b_rate1 = tl.load(rates + o_rate + 1, mask=m_t, other=0.0)[:, None] * factor
    b_rate2 = tl.load(rates + o_rate + 2, mask=m_t, other=0.0)[:, None] * factor
    b_drate0 = tl.zeros((BT,), tl.float32)
    b_drate1 = tl.zeros((BT,), tl.float32)
    b_drate2 = tl.zeros((BT,), tl.float32)
    for i_e in range(0, E, BE):
        o_e = i_e + tl.arange(0, BE)
        m_te = m_t[:, None] & (o_e < E)[None, :]
        o_wide = (i_n * T + o_t)[:, None] * 2 * E + o_e[None, :]
        o_out = (i_n * T + o_t)[:, None] * E + o_e[None, :]
        b_a = tl.load(ac + o_wide, mask=m_te, other=0.0).to(tl.float32)
        b_c = tl.load(ac + o_wide + E, mask=m_te, other=0.0).to(tl.float32)
        b_delta = tl.load(delta + o_out, mask=m_te, other=0.0).to(tl.float32)
        b_p0 = tl.load(dhalves + o_wide, mask=m_te, other=0.0).to(tl.float32)
        b_p2 = tl.load(dhalves + o_wide + E, mask=m_te, other=0.0).to(tl.float32)
        b_p1 = tl.load(dhidden + o_out, mask=m_te, other=0.0).to(tl.float32)
        b_sigmoid = sigmoid(b_a)
        b_silu = b_a * b_sigmoid
        b_silu1 = b_sigmoid + b_silu * (1 - b_sigmoid)  # first and second derivative of silu
        b_silu2 = b_sigmoid * (1 - b_sigmoid) * (2 + b_a - 2 * b_silu)
        b_drate0 += tl.sum(b_p0 * b_delta * b_c * b_silu1, 1)
        b_drate1 += tl.sum(b_p1 * b_silu * b_c, 1)
        b_drate2 += tl.sum(b_p2 * b_delta * b_silu, 1)
        b_p0 *= b_rate0
        b_p1 *= b_rate1
        b_p2 *= b_rate2
        b_da = (b_p2 * b_delta + b_p1 * b_c) * b_silu1 + b_p0 * b_delta * b_c * b_silu2
        b_dc = b_p0 * b_delta * b_silu1 + b_p1 * b_silu
        b_ddelta = b_p0 * b_c * b_silu1 + b_p2 * b_silu
        tl.store(dac + o_wide, b_da.to(dac.dtype.element_ty), mask=m_te)
        tl.store(dac + o_wide + E, b_dc.to(dac.dtype.element_ty), mask=m_te)
        tl.store(ddelta + o_out, b_ddelta.to(ddelta.dtype.element_ty), mask=m_te)
    tl.store(drates + o_rate, b_drate0 * factor, mask=m_t)
    tl.store(drates + o_rate + 1, b_drate1 * factor, mask=m_t)
    tl.store(drates + o_rate + 2, b_drate2 * factor, mask=m_t)


@triton.jit
def load_sum(w, step, scale, o_rc, m_rc):
    """w + scale * step, fp32."""
    b_step = tl.load(step + o_rc, mask=m_rc, other=0.0).to(tl.float32)
    return tl.load(w + o_rc, mask=m_rc, other=0.0) + scale * b_step


@triton.jit
def renormalise_kernel(
    w,  # fp32 [h, r, c]: n heads, or those of one utterance, which all share
    step,  # [n, r, c]
    norms,  # fp32 [n, r]
    scale,  # fp32 [n] or None: 1
    learned,  # bool [n] or None: true
    out,  # fp32 [n, r, c]: rows of w + scale * step, scaled to their norms; w if not learned
    low,  # [n, r, c] or None, out: the same in the dtype of products
    H, R, C, EPS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    i_n = tl.program_id(1).to(tl.int64)
    w += i_n % H * R * C
    step += i_n * R * C
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale + i_n)
    b_squares = tl.zeros((BR,), tl.float32)
    for i_c in range(0, C, BC):
        o_c = i_c + tl.arange(0, BC)
        m_rc = m_r[:, None] & (o_c < C)[None, :]
        b_z = load_sum(w, step, factor, o_r[:, None] * C + o_c[None, :], m_rc)
        b_squares += tl.sum(b_z * b_z, 1)
    b_norm = tl.load(norms + i_n * R + o_r, mask=m_r, other=0.0)
    b_shrink = (b_norm / (tl.sqrt(b_squares) + EPS))[:, None]
    for i_c in range(0, C, BC):
        o_c = i_c + tl.arange(0, BC)
        m_rc = m_r[:, None] & (o_c < C)[None, :]
        o_rc = o_r[:, None] * C + o_c[None, :]
        b_z = load_sum(w, step, factor, o_rc, m_rc) * b_shrink
        if learned is not None:
            b_z = tl.where(tl.load(learned + i_n), b_z, tl.load(w + o_rc, mask=m_rc, other=0.0))
        tl.store(out + i_n * R * C + o_rc, b_z, mask=m_rc)
        if low is not None:
            tl.store(low + i_n * R * C + o_rc, b_z.to(low.dtype.element_ty), mask=m_rc)


@triton.jit
def renormalise_backward_kernel(
    grad,  # fp32 [n, r, c]: of `out` of renormalise_kernel
    w, step, norms, scale, learned,
    dw,  # out
    dstep,  # [n, r, c], out: in the dtype of products if nothing else uses it
    dnorms,  # fp32 [n, r], out
    dscale,  # fp32 [n, r], out: each row's part; None if there is no scale
    H, R, C, EPS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    i_n = tl.program_id(1).to(tl.int64)
    w += i_n % H * R * C
    step += i_n * R * C
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale + i_n)
    b_squares = tl.zeros((BR,), tl.float32)
    b_dot = tl.zeros((BR,), tl.float32)
    for i_c in range(0, C, BC):
        o_c = i_c + tl.arange(0, BC)
        m_rc = m_r[:, None] & (o_c < C)[None, :]
        o_rc = o_r[:, None] * C + o_c[None, :]
        b_z = load_sum(w, step, factor, o_rc, m_rc)
        b_squares += tl.sum(b_z * b_z, 1)
        b_dot += tl.sum(b_z * tl.load(grad + i_n * R * C + o_rc, mask=m_rc, other=0.0), 1)
    b_length = tl.sqrt(b_squares)
    b_inverse = 1 / (b_length + EPS)
    b_norm = tl.load(norms + i_n * R + o_r, mask=m_r, other=0.0)
    b_radial = b_dot * b_norm * b_inverse * b_inverse / tl.maximum(b_length, TINY)
    changed = 1.0
    if learned is not None:
        changed = tl.load(learned + i_n).to(tl.float32)
    b_dscale = tl.zeros((BR,), tl.float32)
    for i_c in range(0, C, BC):
        o_c = i_c + tl.arange(0, BC)
        m_rc = m_r[:, None] & (o_c < C)[None, :]
        o_rc = o_r[:, None] * C + o_c[None, :]
        b_step = tl.load(step + o_rc, mask=m_rc, other=0.0).to(tl.float32)
        b_z = load_sum(w, step, factor, o_rc, m_rc)
        b_grad = tl.load(grad + i_n * R * C + o_rc, mask=m_rc, other=0.0)
        b_dz = (b_grad * (b_norm * b_inverse)[:, None] - b_z * b_radial[:, None]) * changed
        b_dscale += tl.sum(b_dz * b_step, 1)
        tl.store(dw + i_n * R * C + o_rc, b_dz + b_grad * (1 - changed), mask=m_rc)
        tl.store(dstep + i_n * R * C + o_rc, (b_dz * factor).to(dstep.dtype.element_ty), mask=m_rc)
    tl.store(dnorms + i_n * R + o_r, b_dot * b_inverse * changed, mask=m_r)
    if dscale is not None:
        tl.store(dscale + i_n * R + o_r, b_dscale, mask=m_r)
