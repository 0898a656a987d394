"""The CTC lattice's Triton kernels, which kernel.py launches and README.md derives."""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from maya.kernels.lattice.jit import IMPOSSIBLE, NEG, from_left, from_right, lens

SIZES = ("S", "W")  # they change from batch to batch, so no kernel is compiled for one value


@triton.jit
def load_score(p_score, m_score):
    """Log probabilities; NEG for -inf and outside m_score; nan stays nan."""
    b_score = tl.load(p_score, mask=m_score, other=NEG)
    return tl.where(b_score < NEG, NEG, b_score)


@triton.jit
def log_add(b_x, b_y):
    """log(exp x + exp y) of fp64, and the share of x in the sum, fp32. nan stays nan."""
    b_gap = (b_x - b_y).to(tl.float32)
    b_odds = tl.exp(-tl.abs(b_gap))  # of the smaller one
    b_sum = tl.where(b_gap < 0, b_y, b_x) + tl.log(1.0 + b_odds)
    return b_sum, tl.where(b_gap < 0, b_odds, 1.0) / (1.0 + b_odds)


@triton.jit(do_not_specialize=SIZES)
def ctc_alpha_kernel(
    scores,  # fp32 [b, t, u]: log probabilities of blank (column 0) and of label u
    repeats,  # uint8 [b, u]: whether label u equals label u - 1
    sizes,  # int32 [b, 2]: T, U
    log_prob,  # fp32 [b], out
    shares,  # fp32 [b, t, 3, u], out
    S, W, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    m_blank = o_u <= U
    m_label = m_blank & (o_u > 0)
    m_jump = tl.load(repeats + i_b * W + o_u, mask=m_blank, other=0) == 0
    p_scores = scores + i_b * S * W
    p_shares = shares + i_b * S * 3 * W + o_u
    # Before frame 0 all mass is in the blank before the first label.
    b_blank = tl.where(o_u == 0, 0.0, NEG).to(tl.float64)
    b_label = tl.full((BU,), NEG, tl.float64)
    for i_t in tl.range(0, T, num_stages=STAGES):
        b_score = load_score(p_scores + i_t * W + o_u, m_label)
        blank_score = load_score(p_scores + i_t * W, i_t < T)
        b_jump = tl.where(m_jump, from_left(b_label, o_u), NEG)
        b_entering, b_from_blank = log_add(from_left(b_blank, o_u), b_jump)
        b_to_label, b_enters = log_add(b_entering, b_label)
        b_to_blank, b_stays = log_add(b_blank, b_label)
        p_row = p_shares + i_t * (3 * W)
        tl.store(p_row, b_stays, mask=m_blank)
        tl.store(p_row + W, b_enters, mask=m_blank)
        tl.store(p_row + 2 * W, b_from_blank, mask=m_blank)
        b_blank = tl.where(m_blank, b_to_blank + blank_score, NEG)
        b_label = tl.where(m_label, b_to_label + b_score, NEG)
    b_end, b_share = log_add(b_blank, b_label)
    end = tl.sum(tl.where(o_u == U, b_end, 0.0), 0)
    possible = (T > 0) & (end >= IMPOSSIBLE) | (end != end)
    tl.store(log_prob + 2 * i_b, tl.where(possible, end, float("-inf")).to(tl.float32))
    tl.store(log_prob + 2 * i_b + 1, tl.sum(tl.where(o_u == U, b_share, 0.0), 0))


@triton.jit(do_not_specialize=SIZES)
def ctc_mass_kernel(
    sizes, log_prob, shares,
    mass,  # fp32 [b, t, u], out: posteriors of blank (column 0) and of label u; frames below T are written
    S, W, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    T, U = lens(sizes, i_b)
    o_u = tl.arange(0, BU)
    m_blank = o_u <= U
    p_shares = shares + i_b * S * 3 * W + o_u
    p_mass = mass + i_b * S * W + o_u
    end_mass = tl.where(tl.load(log_prob + 2 * i_b) == float("-inf"), 0.0, 1.0)
    end_share = tl.load(log_prob + 2 * i_b + 1)
    b_blank = tl.where(o_u == U, end_mass * end_share, 0.0)
    b_label = tl.where(o_u == U, end_mass - end_mass * end_share, 0.0)
    for i_step in tl.range(0, T, num_stages=STAGES):
        i_t = T - 1 - i_step
        p_row = p_shares + i_t * (3 * W)
        b_stays = tl.load(p_row, mask=m_blank, other=0.0)
        b_enters = tl.load(p_row + W, mask=m_blank, other=0.0)
        b_from_blank = tl.load(p_row + 2 * W, mask=m_blank, other=0.0)
        tl.store(p_mass + i_t * W, tl.where(o_u == 0, tl.sum(b_blank, 0), b_label), mask=m_blank)
        b_entering = b_label * b_enters
        b_by_blank = b_entering * b_from_blank
        b_kept = b_blank * b_stays
        b_label = (b_blank - b_kept) + (b_label - b_entering) + from_right(b_entering - b_by_blank, o_u, BU)
        b_blank = b_kept + from_right(b_by_blank, o_u, BU)
