"""What kernel.py launches: Triton's side of the joint.

Exponentials are in base 2, which is what the device has: a logit costs one fused multiply-add more, and none
of the range handling of exp.
"""

# What Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def"

import math

import triton
import triton.language as tl

from maya.kernels.joint.dropout import COLUMN_STEP, FRAME_STEP

# Arguments that differ from step to step, and are not worth compiling anew for.
CHANGING = ("rows", "splits", "per_split", "blank", "seed", "threshold")

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2))
LOWEST = tl.constexpr(-1e30)  # a maximum over nothing; -inf would make nan of its difference to -inf
GROUP = tl.constexpr(8)  # row tiles that share the tiles of the weight in the L2 cache
FRAME_KEY = tl.constexpr(FRAME_STEP)
COLUMN_KEY = tl.constexpr(COLUMN_STEP)


@triton.jit
def mix(x):
    """`_mix` of kernels/joint/dropout.py on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def kept(frame, state, column, seed, threshold):
    """(rows, columns): which elements of h dropout keeps."""
    key = mix(state.to(tl.uint32) + seed.to(tl.uint32, bitcast=True))
    key = mix(frame.to(tl.uint32) * FRAME_KEY + key)
    draw = mix(key[:, None] + (column.to(tl.uint32) * COLUMN_KEY)[None, :])
    return draw >= threshold.to(tl.uint32, bitcast=True)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """nan stays nan."""
    if ACTIVATION == "relu":
        return tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "tanh":
        return 2 / (1 + tl.exp2(z * (-2 * LOG2E))) - 1
    else:
        return 1 / (1 + tl.exp2(z * -LOG2E))


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    """d activate / d z."""
    if ACTIVATION == "relu":
        return tl.where(z > 0, 1.0, 0.0)
    h = activate(z, ACTIVATION)
    if ACTIVATION == "tanh":
        return 1 - h * h
    else:
        return h * (1 - h)


@triton.jit
def sum_of_projections(f, g, frame, state, c, width, inside):
    """z = f + g, (rows, columns) fp32, 0 outside."""
    of_frame = tl.load(f + frame[:, None] * width + c[None, :], mask=inside, other=0.0)
    of_state = tl.load(g + state[:, None] * width + c[None, :], mask=inside, other=0.0)
    return of_frame.to(tl.float32) + of_state.to(tl.float32)


@triton.jit(do_not_specialize=CHANGING)
def hidden_kernel(
    f,  # [m, h]
    g,  # [n, h]
    frame,  # int64 [r]
    state,  # int64 [r]
    hidden,  # [r, h], out
    rows,
    width,
    seed,
    threshold,
    scale,
    ACTIVATION: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r < rows)[:, None] & (c < width)[None, :]
    t = tl.load(frame + r, mask=r < rows, other=0)
    u = tl.load(state + r, mask=r < rows, other=0)
    h = activate(sum_of_projections(f, g, t, u, c, width, inside), ACTIVATION)
    if DROPOUT:
        h = tl.where(kept(t, u, c, seed, threshold), h * scale, 0.0)
    at = hidden + r.to(tl.int64)[:, None] * width + c[None, :]
    tl.store(at, h.to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def logits_of_tile(
    hidden,
    weight,
    bias,
    r,
    c,
    rows,
    width,
    vocab,
    PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Logits of rows r and columns c in base 2, (ROWS, COLUMNS) fp32; -inf from `vocab` on.

    The same bits in all kernels of the same tiles. No load of the product has a mask: `width` is a multiple
    of DEPTH, rows past the end repeat the last.
    """
    k = tl.arange(0, DEPTH)
    row_at = hidden + tl.minimum(r, rows - 1).to(tl.int64)[:, None] * width + k[None, :]
    column_at = weight + tl.minimum(c, vocab - 1).to(tl.int64)[None, :] * width + k[:, None]
    x = tl.zeros((r.shape[0], c.shape[0]), tl.float32)
    for start in range(0, width, DEPTH):
        x = tl.dot(tl.load(row_at + start), tl.load(column_at + start), x, input_precision=PRECISION)
    if bias is None:
        shift = tl.where(c < vocab, 0.0, float("-inf"))
    else:
        shift = tl.load(bias + c, mask=c < vocab, other=float("-inf")).to(tl.float32) * LOG2E
    return tl.fma(
        x, LOG2E, tl.broadcast_to(shift[None, :], x.shape)
    )  # by name, so that all callers round alike


@triton.jit(do_not_specialize=CHANGING)
def norm_kernel(
    hidden,  # [r, h]
    weight,  # [v, h]
    bias,  # [v] or None
    label,  # int64 [r], -1: none
    partial,  # fp32 [2, split, r], out: maximum over a part of the vocabulary, sum of exponentials above it
    picked,  # fp32 [2, r], out: logits of blank and of the label, where there is one
    rows,
    width,
    vocab,
    per_split,  # column tiles
    blank,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # Programs that run together walk the vocabulary together, and so share the weight in the L2 cache.
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    y = tl.load(label + r, mask=r < rows, other=-1).to(tl.int32)
    first = tl.program_id(1) * per_split
    last = tl.minimum(first + per_split, tl.cdiv(vocab, COLUMNS))
    top = tl.full((ROWS,), LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for tile in range(first, last):
        start = tile * COLUMNS
        c = start + tl.arange(0, COLUMNS)
        x = logits_of_tile(hidden, weight, bias, r, c, rows, width, vocab, PRECISION, DEPTH)
        # A label's logit is taken from here and not from a product of its own: rounded otherwise than its
        # tile, a probability near 1 would lose the digits of what it lacks to 1.
        if (blank >= start) & (blank < start + COLUMNS):
            tl.store(picked + r, tl.sum(tl.where(c[None, :] == blank, x, 0.0), 1), mask=r < rows)
        here = (y >= start) & (y < start + COLUMNS)
        if tl.max(here.to(tl.int32), 0) > 0:
            tl.store(picked + rows + r, tl.sum(tl.where(c[None, :] == y[:, None], x, 0.0), 1), mask=here)
        higher = tl.maximum(top, tl.max(x, 1))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(x - higher[:, None]), 1)
        top = higher
    at = partial + tl.program_id(1) * rows + r
    tl.store(at, top, mask=r < rows)
    tl.store(at + tl.num_programs(1) * rows, total, mask=r < rows)


@triton.jit(do_not_specialize=CHANGING)
def finish_kernel(
    partial,
    picked,
    label,
    norm,  # fp32 [r, 2], out: maximum, and logarithm of the sum of exponentials above it, base 2
    of_blank,  # fp32 [r], out, as of_label: log probabilities
    of_label,
    rows,
    splits,
    ROWS: tl.constexpr,
):
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    used = r < rows
    top = tl.full((ROWS,), LOWEST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for split in range(splits):
        x = tl.load(partial + split * rows + r, mask=used, other=0.0)
        share = tl.load(partial + (splits + split) * rows + r, mask=used, other=0.0)
        higher = tl.maximum(top, x)
        total = total * tl.exp2(top - higher) + share * tl.exp2(x - higher)
        top = higher
    total = tl.log2(total)
    tl.store(norm + 2 * r, top, mask=used)
    tl.store(norm + 2 * r + 1, total, mask=used)
    # Differences of large numbers first: of a likely symbol they are exact.
    x = tl.load(picked + r, mask=used, other=0.0)
    tl.store(of_blank + r, (x - top - total) * LN2, mask=used)
    exists = used & (tl.load(label + r, mask=used, other=-1) >= 0)
    x = tl.load(picked + rows + r, mask=exists, other=float("-inf"))
    tl.store(of_label + r, tl.where(exists, x - top - total, float("-inf")) * LN2, mask=used)


@triton.jit(do_not_specialize=CHANGING)
def logit_gradient_kernel(
    hidden,
    weight,
    bias,
    label,
    norm,
    blank_mass,  # fp32 [r], as label_mass
    label_mass,
    out,  # [r, v] (by `stride`): softmax * both masses - blank_mass at blank - label_mass at label
    sums,  # fp32 [row tile, v] or None, out
    rows,
    width,
    vocab,
    stride,
    blank,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(vocab, COLUMNS)
    above = program // (GROUP * column_tiles) * GROUP
    height = tl.minimum(row_tiles - above, GROUP)
    row_tile = above + program % (GROUP * column_tiles) % height
    column_tile = program % (GROUP * column_tiles) // height
    r = row_tile * ROWS + tl.arange(0, ROWS)
    c = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    used = r < rows
    x = logits_of_tile(hidden, weight, bias, r, c, rows, width, vocab, PRECISION, DEPTH)
    top = tl.load(norm + 2 * r, mask=used, other=float("inf"))
    total = tl.load(norm + 2 * r + 1, mask=used, other=0.0)
    blanks = tl.load(blank_mass + r, mask=used, other=0.0)
    labels = tl.load(label_mass + r, mask=used, other=0.0)
    y = tl.load(label + r, mask=used, other=-1).to(tl.int32)
    x = tl.exp2(x - top[:, None] - total[:, None]) * (blanks + labels)[:, None]
    x -= tl.where(c[None, :] == blank, blanks[:, None], 0.0)
    x -= tl.where(c[None, :] == y[:, None], labels[:, None], 0.0)
    if sums is not None:
        tl.store(sums + row_tile.to(tl.int64) * vocab + c, tl.sum(x, 0), mask=c < vocab)
    at = out + r.to(tl.int64)[:, None] * stride + c[None, :]
    tl.store(at, x.to(out.dtype.element_ty), mask=used[:, None] & (c < vocab)[None, :])


@triton.jit(do_not_specialize=CHANGING)
def segment_kernel(
    f,
    g,
    dh,  # fp32 [r, h]
    frame,
    state,
    order,  # int64 [r]: rows sorted by what is summed
    starts,  # int64 [m + 1]: where each target's rows begin in `order`
    out,  # fp32 [m, h], added to
    width,
    seed,
    threshold,
    scale,
    ACTIVATION: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    target = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(starts + target)
    last = tl.load(starts + target + 1)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        i = start + tl.arange(0, ROWS)
        r = tl.load(order + i, mask=i < last, other=0)
        t = tl.load(frame + r)
        u = tl.load(state + r)
        inside = (i < last)[:, None] & (c < width)[None, :]
        dz = tl.load(dh + r[:, None] * width + c[None, :], mask=inside, other=0.0)
        dz *= slope(sum_of_projections(f, g, t, u, c, width, inside), ACTIVATION)
        if DROPOUT:
            dz *= tl.where(kept(t, u, c, seed, threshold), scale, 0.0)
        total += dz
    if first < last:
        at = out + target * width + c
        tl.store(at, tl.load(at, mask=c < width) + tl.sum(total, 0), mask=c < width)
