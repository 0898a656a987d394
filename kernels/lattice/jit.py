"""The lattices' Triton kernels, which kernel.py launches and explains."""

# Triton functions have no Python types, and their tuples grow.
# mypy: disable-error-code="no-untyped-def, assignment"

import triton
import triton.language as tl

# Stands for minus infinity inside the kernels, because a difference of two infinities would be nan. Sums of
# up to 1e8 arcs of it still fit into fp32.
NEG = tl.constexpr(-1e30)
IMPOSSIBLE = tl.constexpr(-1e29)
TINY = tl.constexpr(1e-30)
SIZES = ("S", "W", "N")  # they change from batch to batch, so no kernel is compiled for one value


@triton.jit
def lens(sizes, i_b):
    """T and U of an utterance."""
    return tl.load(sizes + 2 * i_b), tl.load(sizes + 2 * i_b + 1)


@triton.jit
def may_enter(i_t, o_u, T, U, D, LABEL: tl.constexpr, MAY_END: tl.constexpr):
    """Whether an arc of D frames enters node (i_t, o_u) from a cell; LABEL: a label, else a blank."""
    m_node = (i_t < T) & (o_u <= U)
    if MAY_END:
        m_node |= (i_t == T) & (o_u == U)
    return m_node & (i_t >= D) & (o_u >= LABEL)


@triton.jit
def load_weight(token, duration, o_cell, m_arc, i_duration, DURATIONS: tl.constexpr):
    """Log weights of token and duration together; NEG for -inf and outside m_arc; nan stays nan."""
    b_weight = tl.load(token + o_cell, mask=m_arc, other=float("-inf")).to(tl.float32)
    if duration is not None:
        p_duration = duration + o_cell * DURATIONS + i_duration
        b_weight += tl.load(p_duration, mask=m_arc, other=0.0).to(tl.float32)
    return tl.where(b_weight < NEG, NEG, b_weight)


@triton.jit(do_not_specialize=SIZES)
def arcs_kernel(
    blank,  # [b, t, u], as label: log probabilities of the cells
    label,
    duration,  # [b, t, u, d], or None
    sizes,  # int32 [b, 2]: T, U
    arcs,  # fp32 [b, n, arc, u], out
    S, W, N,
    BLANKS: tl.constexpr, LABELS: tl.constexpr,  # frames of the arcs of each kind
    SKEW: tl.constexpr, STRIDE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """Log weights by the node that the arcs enter; NEG for -inf and for arcs that do not exist."""
    i_n, i_b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    i_t = i_n + 1 - SKEW * o_u  # of the nodes of wavefront i_n + 1
    p_arcs = arcs + ((i_b * N + i_n) * (len(BLANKS) + len(LABELS))) * STRIDE + o_u
    o_cell = (i_b * S + i_t) * W + o_u
    for i_arc in tl.static_range(len(BLANKS)):
        m_arc = may_enter(i_t, o_u, T, U, BLANKS[i_arc], False, True)
        o_source = o_cell - BLANKS[i_arc] * W
        i_duration = i_arc + len(LABELS) - len(BLANKS)
        b_weight = load_weight(blank, duration, o_source, m_arc, i_duration, len(LABELS))
        tl.store(p_arcs + i_arc * STRIDE, b_weight, mask=o_u < STRIDE)
    for i_arc in tl.static_range(len(LABELS)):
        m_arc = may_enter(i_t, o_u, T, U, LABELS[i_arc], True, SKEW == 0)
        o_source = o_cell - LABELS[i_arc] * W - 1
        b_weight = load_weight(label, duration, o_source, m_arc, i_arc, len(LABELS))
        tl.store(p_arcs + (len(BLANKS) + i_arc) * STRIDE, b_weight, mask=o_u < STRIDE)


@triton.jit(do_not_specialize=SIZES)
def cells_kernel(
    arcs,  # fp32 [b, n, arc, u]: posteriors
    sizes,
    blank,  # fp32 [b, t, u], out, as label
    label,
    duration,  # fp32 [b, t, u, d], out, or None
    S, W, N,
    BLANKS: tl.constexpr, LABELS: tl.constexpr,
    SKEW: tl.constexpr, STRIDE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """Posteriors by the cell that the arcs leave; 0 outside the cells. Reads nothing else."""
    i_t, i_b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    o_cell = (i_b * S + i_t) * W + o_u
    ARCS: tl.constexpr = len(BLANKS) + len(LABELS)
    FIRST: tl.constexpr = len(LABELS) - len(BLANKS)  # 1 if the first duration is 0: it has no blank
    p_arcs = arcs + (i_b * N + i_t - 1 + SKEW * o_u) * ARCS * STRIDE + o_u  # of node (t, u)
    b_blank = tl.zeros((BU,), tl.float32)
    b_label = tl.zeros((BU,), tl.float32)
    for i_d in tl.static_range(len(LABELS)):
        o_arc = ((LABELS[i_d] + SKEW) * ARCS + len(BLANKS) + i_d) * STRIDE + 1  # enters column u + 1
        o_t = i_t + LABELS[i_d]
        m_arc = may_enter(o_t, o_u + 1, T, U, LABELS[i_d], True, SKEW == 0) & (o_u < W)
        b_arcs = tl.load(p_arcs + o_arc, mask=m_arc, other=0.0)
        b_label += b_arcs
        if i_d >= FIRST:
            o_arc = (BLANKS[i_d - FIRST] * ARCS + i_d - FIRST) * STRIDE
            o_t = i_t + BLANKS[i_d - FIRST]
            m_arc = may_enter(o_t, o_u, T, U, BLANKS[i_d - FIRST], False, True) & (o_u < W)
            b_arc = tl.load(p_arcs + o_arc, mask=m_arc, other=0.0)
            b_blank += b_arc
            b_arcs += b_arc
        if duration is not None:
            tl.store(duration + o_cell * len(LABELS) + i_d, b_arcs, mask=o_u < W)
    tl.store(blank + o_cell, b_blank, mask=o_u < W)
    tl.store(label + o_cell, b_label, mask=o_u < W)


@triton.jit
def load_row(p_row, o_u, STRIDE: tl.constexpr, BU: tl.constexpr):
    """A row of BU columns that is stored with STRIDE; 0 in those that are not stored."""
    if STRIDE == BU:
        return tl.load(p_row)
    return tl.load(p_row, mask=o_u < STRIDE, other=0.0)


@triton.jit
def store_row(p_row, b_x, o_u, STRIDE: tl.constexpr, BU: tl.constexpr):
    if STRIDE == BU:
        tl.store(p_row, b_x)
    else:
        tl.store(p_row, b_x, mask=o_u < STRIDE)


@triton.jit
def from_left(b_x, o_u):
    """b_x of the column before; column 0 gets its own."""
    return tl.gather(b_x, tl.maximum(o_u - 1, 0), 0)


@triton.jit
def from_right(b_x, o_u, BU: tl.constexpr):
    """b_x of the column after; 0 in the last."""
    b_next = tl.gather(b_x, tl.minimum(o_u + 1, BU - 1), 0)
    return tl.where(o_u < BU - 1, b_next, 0.0)


@triton.jit
def store_end(p_log_prob, b_alpha, T, U, o_u):
    """Stores alpha at (T, U), in the last wavefront, as the log probability; -inf without a path."""
    end = tl.sum(tl.where(o_u == U, b_alpha, 0.0), 0)
    possible = (T > 0) & (end >= IMPOSSIBLE) | (end != end)
    tl.store(p_log_prob, tl.where(possible, end, float("-inf")).to(tl.float32))


@triton.jit(do_not_specialize=SIZES)
def rnnt_alpha_kernel(
    arcs,  # fp32 [b, n, 2, u], log weights: blank, label
    sizes, log_prob,  # fp32 [b], out
    shares,  # fp32 [b, n, 1, u], out, or None
    N, SKEW: tl.constexpr,
    STRIDE: tl.constexpr, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    p_arcs = arcs + i_b * N * 2 * STRIDE + o_u
    p_shares = shares
    if shares is not None:
        p_shares = shares + i_b * N * STRIDE + o_u
    b_alpha = tl.where(o_u == 0, 0.0, NEG).to(tl.float64)
    for i_n in tl.range(0, T + SKEW * U, num_stages=STAGES):
        b_blank = load_row(p_arcs + i_n * (2 * STRIDE), o_u, STRIDE, BU)
        b_label = load_row(p_arcs + i_n * (2 * STRIDE) + STRIDE, o_u, STRIDE, BU)
        b_by_label = from_left(b_alpha, o_u) + b_label
        b_by_blank = b_alpha + b_blank
        b_gap = (b_by_blank - b_by_label).to(tl.float32)
        b_odds = tl.exp(-tl.abs(b_gap))  # of the less likely arc; nan stays nan
        b_alpha = tl.where(b_gap < 0, b_by_label, b_by_blank) + tl.log(1.0 + b_odds)
        if shares is not None:
            # The sign says which arc is the less likely. A product, because 0 - 0 has no sign.
            b_share = b_odds / (1.0 + b_odds) * tl.where(b_gap < 0, 1.0, -1.0)
            store_row(p_shares + i_n * STRIDE, b_share, o_u, STRIDE, BU)
    store_end(log_prob + i_b, b_alpha, T, U, o_u)


@triton.jit(do_not_specialize=SIZES)
def rnnt_mass_kernel(
    shares, sizes, log_prob,
    arcs,  # fp32 [b, n, 2, u], out: posteriors
    N, SKEW: tl.constexpr,
    STRIDE: tl.constexpr, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    last = T + SKEW * U - 1
    p_arcs = arcs + (i_b * N + last) * 2 * STRIDE + o_u
    p_shares = shares + (i_b * N + last) * STRIDE + o_u
    end_mass = tl.where(tl.load(log_prob + i_b) == float("-inf"), 0.0, 1.0)
    b_mass = tl.where(o_u == U, end_mass, 0.0)
    for i_step in tl.range(0, last + 1, num_stages=STAGES):
        b_share = load_row(p_shares - i_step * STRIDE, o_u, STRIDE, BU)
        b_less = b_mass * tl.abs(b_share)
        b_rest = b_mass - b_less
        m_blank = b_share.to(tl.int32, bitcast=True) >= 0
        b_label = tl.where(m_blank, b_rest, b_less)
        b_blank = tl.where(m_blank, b_less, b_rest)
        store_row(p_arcs - i_step * (2 * STRIDE), b_blank, o_u, STRIDE, BU)
        store_row(p_arcs - i_step * (2 * STRIDE) + STRIDE, b_label, o_u, STRIDE, BU)
        b_mass = b_blank + from_right(b_label, o_u, BU)


@triton.jit
def repeated(b_x, COUNT: tl.constexpr):
    """A tuple of COUNT times b_x."""
    out = (b_x,)
    for _ in tl.static_range(1, COUNT):
        out = out + (b_x,)
    return out


@triton.jit
def pushed(b_new, b_old):
    """The tuple `b_old` with `b_new` in front and without its last element.

    The additions change nothing. Without them, Triton prefetches no loads in the loop, because it does not in
    a loop that passes a carried value on unchanged.
    """
    out = (b_new,)
    for i in tl.static_range(len(b_old) - 1):
        out = out + (b_old[i] + 0.0,)
    return out


@triton.jit
def arrived(b_later, b_arcs, FRAMES: tl.constexpr, FIRST: tl.constexpr, SHIFT: tl.constexpr):
    """Masses that wait for the wavefronts to come, the nearest first, one wavefront further and with those of
    `b_arcs`; the arc of FRAMES[i] frames, which is b_arcs[FIRST + i], raises n by FRAMES[i] + SHIFT.
    """
    out = ()
    for i in tl.static_range(len(b_later)):
        b_sum = 0.0 if i + 1 == len(b_later) else b_later[i + 1] + 0.0
        for i_arc in tl.static_range(len(FRAMES)):
            if FRAMES[i_arc] + SHIFT == i + 1:
                b_sum += b_arcs[FIRST + i_arc]
        out = out + (b_sum,)
    return out


@triton.jit
def nearly_max(terms):
    """About the largest of a tuple of fp64 vectors: right to 2^-20 of it. Ignores nan.

    Upper halves of fp64 are ordered as fp32 numbers are. A maximum of fp32 is one instruction, of fp64 six.
    """
    b_max = (terms[0].to(tl.int64, bitcast=True) >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    for i in tl.static_range(1, len(terms)):
        b_upper = (terms[i].to(tl.int64, bitcast=True) >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        b_max = tl.maximum(b_max, b_upper)
    return (b_max.to(tl.int32, bitcast=True).to(tl.int64) << 32).to(tl.float64, bitcast=True)


@triton.jit
def odds(terms, b_top):
    """exp(term - b_top) of a tuple of fp64 vectors, in fp32."""
    out = (tl.exp((terms[0] - b_top).to(tl.float32)),)
    for i in tl.static_range(1, len(terms)):
        out = out + (tl.exp((terms[i] - b_top).to(tl.float32)),)
    return out


@triton.jit(do_not_specialize=SIZES)
def tdt_alpha_kernel(
    arcs,  # fp32 [b, n, arc, u], log weights
    sizes, log_prob,  # fp32 [b], out
    shares,  # fp32 [b, n, arc, u], out, or None
    N, BLANKS: tl.constexpr, LABELS: tl.constexpr,
    STRIDE: tl.constexpr, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    ROW: tl.constexpr = (len(BLANKS) + len(LABELS)) * STRIDE
    LONGEST: tl.constexpr = LABELS[len(LABELS) - 1]
    p_arcs = arcs + i_b * N * ROW + o_u
    p_shares = shares
    if shares is not None:
        p_shares = shares + i_b * N * ROW + o_u
    # Alphas of the wavefronts up to i_n, the nearest first: of the same column, and of the one before it.
    b_none = tl.full((BU,), NEG, tl.float64)
    b_alpha = tl.where(o_u == 0, 0.0, NEG).to(tl.float64)
    b_alphas = repeated(b_none, LONGEST)
    b_lefts = repeated(b_none, LONGEST + 1)
    for i_n in tl.range(0, T + U, num_stages=STAGES):
        b_alphas = pushed(b_alpha + 0.0, b_alphas)
        b_lefts = pushed(from_left(b_alpha, o_u), b_lefts)
        terms = ()
        for i_arc in tl.static_range(len(BLANKS)):
            b_weight = load_row(p_arcs + i_n * ROW + i_arc * STRIDE, o_u, STRIDE, BU)
            terms = terms + (b_alphas[BLANKS[i_arc] - 1] + b_weight,)
        for i_arc in tl.static_range(len(LABELS)):
            b_weight = load_row(p_arcs + i_n * ROW + (len(BLANKS) + i_arc) * STRIDE, o_u, STRIDE, BU)
            terms = terms + (b_lefts[LABELS[i_arc]] + b_weight,)
        b_top = nearly_max(terms)
        b_odds = odds(terms, b_top)
        b_sum = b_odds[0]
        for i_arc in tl.static_range(1, len(terms)):
            b_sum += b_odds[i_arc]
        b_sum = tl.where(b_sum < TINY, TINY, b_sum)  # at nodes that no path reaches; nan stays nan
        b_alpha = b_top + tl.log(b_sum)
        if shares is not None:
            b_scale = 1.0 / b_sum
            b_scale += b_scale * (1.0 - b_sum * b_scale)  # the division errs by 2 ulp, which would add up
            for i_arc in tl.static_range(len(terms)):
                p_share = p_shares + i_n * ROW + i_arc * STRIDE
                store_row(p_share, b_odds[i_arc] * b_scale, o_u, STRIDE, BU)
    store_end(log_prob + i_b, b_alpha, T, U, o_u)


@triton.jit(do_not_specialize=SIZES)
def tdt_mass_kernel(
    shares, sizes, log_prob,
    arcs,  # fp32 [b, n, arc, u], out: posteriors
    N, BLANKS: tl.constexpr, LABELS: tl.constexpr,
    STRIDE: tl.constexpr, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    ROW: tl.constexpr = (len(BLANKS) + len(LABELS)) * STRIDE
    LONGEST: tl.constexpr = LABELS[len(LABELS) - 1]
    last = T + U - 1
    p_arcs = arcs + (i_b * N + last) * ROW + o_u
    p_shares = shares + (i_b * N + last) * ROW + o_u
    end_mass = tl.where(tl.load(log_prob + i_b) == float("-inf"), 0.0, 1.0)
    b_mass = tl.where(o_u == U, end_mass, 0.0)
    # Masses on their way to the wavefronts before i_n: in the same column, and in the one after.
    b_none = tl.zeros((BU,), tl.float32)
    b_by_blank = repeated(b_none, LONGEST)
    b_by_label = repeated(b_none, LONGEST + 1)
    for i_step in tl.range(0, last + 1, num_stages=STAGES):
        b_arcs = ()
        for i_arc in tl.static_range(len(BLANKS) + len(LABELS)):
            b_share = load_row(p_shares - i_step * ROW + i_arc * STRIDE, o_u, STRIDE, BU)
            b_arcs = b_arcs + (b_mass * b_share,)
            store_row(p_arcs - i_step * ROW + i_arc * STRIDE, b_arcs[i_arc], o_u, STRIDE, BU)
        b_by_blank = arrived(b_by_blank, b_arcs, BLANKS, 0, 0)
        b_by_label = arrived(b_by_label, b_arcs, LABELS, len(BLANKS), 1)
        b_mass = b_by_blank[0] + from_right(b_by_label[0], o_u, BU)
