"""What kernel.py launches: Triton's side of LaCT.

n is an utterance's head, t a frame of the span, d a channel, e a hidden channel; `up` is w0 over w2. Sums are
in fp32.
"""

# What Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def"

import math

import triton
import triton.language as tl

# Arguments that differ from span to span, and are not worth compiling anew for.
CHANGING = ("frames",)

LOG2E = tl.constexpr(math.log2(math.e))
TINY = tl.constexpr(1e-37)  # keeps 0 / 0 at 0


@triton.jit
def sigmoid(x):
    """In base 2, which is what the device has."""
    return 1 / (1 + tl.exp2(x * -LOG2E))


@triton.jit
def tile_of_span(frames, hidden, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Which utterance's head, frames and hidden channels a program has; programs that run together share
    frames, and the weights of their head.
    """
    n = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(hidden, COLUMNS)
    t = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    e = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    return n, t, e


@triton.jit(do_not_specialize=CHANGING)
def swiglu_kernel(
    x,  # [n, t, d]
    up,  # [n, 2 e, d]
    out,  # [n, t, e]: silu(w0 x) * (w2 x)
    frames,
    hidden,
    channels,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    n, t, e = tile_of_span(frames, hidden, ROWS, COLUMNS)
    d = tl.arange(0, DEPTH)
    # Rows past the end repeat the last; channels past it are 0 on both sides.
    x_at = x + (n * frames + tl.minimum(t, frames - 1))[:, None] * channels + d[None, :]
    w_at = up + (n * 2 * hidden + tl.minimum(e, hidden - 1))[None, :] * channels + d[:, None]
    a = tl.zeros((ROWS, COLUMNS), tl.float32)
    c = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, channels, DEPTH):
        inside = start + d < channels
        row = tl.load(x_at + start, mask=inside[None, :], other=0.0)
        a = tl.dot(row, tl.load(w_at + start, mask=inside[:, None], other=0.0), a, input_precision=PRECISION)
        second = tl.load(w_at + hidden * channels + start, mask=inside[:, None], other=0.0)
        c = tl.dot(row, second, c, input_precision=PRECISION)
    at = out + (n * frames + t)[:, None] * hidden + e[None, :]
    h = a * sigmoid(a) * c
    tl.store(at, h.to(out.dtype.element_ty), mask=(t < frames)[:, None] & (e < hidden)[None, :])


@triton.jit(do_not_specialize=CHANGING)
def terms_kernel(
    x,  # [n, t, d], as y
    y,
    up,
    down,  # [n, d, e]
    rates,  # fp32 [n, t, 3] or None: 1
    halves,  # [n, t, 2 e], out: what the gradients by w0 and w2 are made of, beside x
    out,  # [n, t, e], out: the hidden layer times its rate
    both,  # [n, t, 2 e] or None, out: w0 x and w2 x
    delta,  # [n, t, e] or None, out: w1^T y
    frames,
    hidden,
    channels,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    n, t, e = tile_of_span(frames, hidden, ROWS, COLUMNS)
    d = tl.arange(0, DEPTH)
    row_at = (n * frames + tl.minimum(t, frames - 1))[:, None] * channels + d[None, :]
    column = tl.minimum(e, hidden - 1)
    w_at = up + (n * 2 * hidden + column)[None, :] * channels + d[:, None]
    v_at = down + n * channels * hidden + d[:, None] * hidden + column[None, :]
    a = tl.zeros((ROWS, COLUMNS), tl.float32)
    c = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_hidden = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, channels, DEPTH):
        inside = start + d < channels
        row = tl.load(x + row_at + start, mask=inside[None, :], other=0.0)
        a = tl.dot(row, tl.load(w_at + start, mask=inside[:, None], other=0.0), a, input_precision=PRECISION)
        second = tl.load(w_at + hidden * channels + start, mask=inside[:, None], other=0.0)
        c = tl.dot(row, second, c, input_precision=PRECISION)
        row = tl.load(y + row_at + start, mask=inside[None, :], other=0.0)
        weight = tl.load(v_at + start * hidden, mask=inside[:, None], other=0.0)
        of_hidden = tl.dot(row, weight, of_hidden, input_precision=PRECISION)
    used = (t < frames)[:, None] & (e < hidden)[None, :]
    place = n * frames + t
    wide_at = place[:, None] * 2 * hidden + e[None, :]
    at = place[:, None] * hidden + e[None, :]
    if both is not None:
        tl.store(both + wide_at, a.to(both.dtype.element_ty), mask=used)
        tl.store(both + wide_at + hidden, c.to(both.dtype.element_ty), mask=used)
        tl.store(delta + at, of_hidden.to(delta.dtype.element_ty), mask=used)
    s = sigmoid(a)
    silu = a * s
    first = of_hidden * c * (s + silu * (1 - s))
    second_half = of_hidden * silu
    h = silu * c
    if rates is not None:
        rate_at = rates + place * 3
        first *= tl.load(rate_at, mask=t < frames, other=0.0)[:, None]
        h *= tl.load(rate_at + 1, mask=t < frames, other=0.0)[:, None]
        second_half *= tl.load(rate_at + 2, mask=t < frames, other=0.0)[:, None]
    tl.store(halves + wide_at, first.to(halves.dtype.element_ty), mask=used)
    tl.store(halves + wide_at + hidden, second_half.to(halves.dtype.element_ty), mask=used)
    tl.store(out + at, h.to(out.dtype.element_ty), mask=used)


@triton.jit(do_not_specialize=("rows",))
def second_order_kernel(
    both,  # [r, 2 e], r = n t: w0 x and w2 x
    delta,  # [r, e]
    rates,  # fp32 [r, 3]
    of_both,  # [r, 2 e]: gradients of the halves; out: of w0 x and w2 x
    of_hidden,  # [r, e]: gradient of the hidden layer times its rate; out: of delta
    of_rates,  # fp32 [r, 3], out
    rows,
    hidden,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    rate0 = tl.load(rates + r * 3, mask=inside, other=0.0)[:, None]
    rate1 = tl.load(rates + r * 3 + 1, mask=inside, other=0.0)[:, None]
    rate2 = tl.load(rates + r * 3 + 2, mask=inside, other=0.0)[:, None]
    sum0 = tl.zeros((ROWS,), tl.float32)
    sum1 = tl.zeros((ROWS,), tl.float32)
    sum2 = tl.zeros((ROWS,), tl.float32)
    for start in range(0, hidden, COLUMNS):
        e = start + tl.arange(0, COLUMNS)
        used = inside[:, None] & (e < hidden)[None, :]
        wide_at = r[:, None] * 2 * hidden + e[None, :]
        at = r[:, None] * hidden + e[None, :]
        a = tl.load(both + wide_at, mask=used, other=0.0).to(tl.float32)
        c = tl.load(both + wide_at + hidden, mask=used, other=0.0).to(tl.float32)
        y = tl.load(delta + at, mask=used, other=0.0).to(tl.float32)
        p0 = tl.load(of_both + wide_at, mask=used, other=0.0).to(tl.float32)
        p2 = tl.load(of_both + wide_at + hidden, mask=used, other=0.0).to(tl.float32)
        p1 = tl.load(of_hidden + at, mask=used, other=0.0).to(tl.float32)
        s = sigmoid(a)
        silu = a * s
        slope = s + silu * (1 - s)
        bent = s * (1 - s) * (2 + a - 2 * silu)
        sum0 += tl.sum(p0 * y * c * slope, 1)
        sum1 += tl.sum(p1 * silu * c, 1)
        sum2 += tl.sum(p2 * y * silu, 1)
        p0 *= rate0
        p1 *= rate1
        p2 *= rate2
        of_a = (p2 * y + p1 * c) * slope + p0 * y * c * bent
        of_c = p0 * y * slope + p1 * silu
        of_y = p0 * c * slope + p2 * silu
        tl.store(of_both + wide_at, of_a.to(of_both.dtype.element_ty), mask=used)
        tl.store(of_both + wide_at + hidden, of_c.to(of_both.dtype.element_ty), mask=used)
        tl.store(of_hidden + at, of_y.to(of_hidden.dtype.element_ty), mask=used)
    tl.store(of_rates + r * 3, sum0, mask=inside)
    tl.store(of_rates + r * 3 + 1, sum1, mask=inside)
    tl.store(of_rates + r * 3 + 2, sum2, mask=inside)


@triton.jit
def sum_of_rows(w, step, scale, at, used):
    """w + scale * step, fp32."""
    z = tl.load(step + at, mask=used, other=0.0)
    return tl.load(w + at, mask=used, other=0.0) + scale * z


@triton.jit
def renormalise_kernel(
    w,  # fp32 [n, r, c], as step and out
    step,
    norms,  # fp32 [n, r]
    scale,  # fp32 [n] or None: 1
    learned,  # bool [n] or None: true
    out,  # rows of w + scale * step, with their norms set; w where nothing was learned
    rows,
    columns,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale + n)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        used = (r < rows)[:, None] & (c < columns)[None, :]
        z = sum_of_rows(w, step, factor, (n * rows + r)[:, None] * columns + c[None, :], used)
        total += tl.sum(z * z, 1)
    wanted = tl.load(norms + n * rows + r, mask=r < rows, other=0.0)
    shrink = (wanted / (tl.sqrt(total) + EPS))[:, None]
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        used = (r < rows)[:, None] & (c < columns)[None, :]
        at = (n * rows + r)[:, None] * columns + c[None, :]
        z = sum_of_rows(w, step, factor, at, used) * shrink
        if learned is not None:
            z = tl.where(tl.load(learned + n), z, tl.load(w + at, mask=used, other=0.0))
        tl.store(out + at, z, mask=used)


@triton.jit
def renormalise_backward_kernel(
    grad,  # fp32 [n, r, c]: of `out` of renormalise_kernel
    w,
    step,
    norms,
    scale,
    learned,
    of_w,  # out
    of_step,  # out
    of_norms,  # fp32 [n, r], out
    of_scale,  # fp32 [n, r], out: each row's share; None where there is no scale
    rows,
    columns,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale + n)
    total = tl.zeros((ROWS,), tl.float32)
    along = tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        used = (r < rows)[:, None] & (c < columns)[None, :]
        at = (n * rows + r)[:, None] * columns + c[None, :]
        z = sum_of_rows(w, step, factor, at, used)
        total += tl.sum(z * z, 1)
        along += tl.sum(z * tl.load(grad + at, mask=used, other=0.0), 1)
    length = tl.sqrt(total)
    inverse = 1 / (length + EPS)
    wanted = tl.load(norms + n * rows + r, mask=r < rows, other=0.0)
    back = along * wanted * inverse * inverse / tl.maximum(length, TINY)
    alive = 1.0
    if learned is not None:
        alive = tl.load(learned + n).to(tl.float32)
    share = tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        used = (r < rows)[:, None] & (c < columns)[None, :]
        at = (n * rows + r)[:, None] * columns + c[None, :]
        moved = tl.load(step + at, mask=used, other=0.0)
        z = sum_of_rows(w, step, factor, at, used)
        g = tl.load(grad + at, mask=used, other=0.0)
        of_z = (g * (wanted * inverse)[:, None] - z * back[:, None]) * alive
        share += tl.sum(of_z * moved, 1)
        tl.store(of_w + at, of_z + g * (1 - alive), mask=used)
        tl.store(of_step + at, of_z * factor, mask=used)
    tl.store(of_norms + n * rows + r, along * inverse * alive, mask=r < rows)
    if of_scale is not None:
        tl.store(of_scale + n * rows + r, share, mask=r < rows)
