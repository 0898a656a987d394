"""Triton kernels of the lattices. One warp walks the wavefronts of one utterance and keeps them in registers.

Wavefront n holds the nodes with t + u = n (label_ends: t = n), one u per column. Every arc leads to a later
wavefront, from column u to u or to u + 1, so a step costs one shift between lanes. Tensors are stored skewed,
[b, n, u], so that a wavefront is one contiguous row.

Alphas are fp64, but only their sums and maxima are computed in fp64: exp and log see differences, in fp32. An
fp32 alpha of -3000 (310 arcs at a vocabulary of 32768) would have steps of 2.4e-4, and every posterior that
relative error.

The backward pass needs no betas (as in k2's mutual information). The mass of a node flows back over its
incoming arcs in the proportions exp(alpha + weight - alpha of the node), which sum to 1. No step of it waits
for a logarithm, and the mass that arrives in (0, 0) is 1.

Names in kernels/, as in flash-linear-attention: i_ an index, o_ offsets, p_ pointers, b_ a block in
registers, m_ a mask; capitals are sizes, B* those of a block.
"""

# Triton functions have no Python types, and their tuples grow.
# mypy: disable-error-code="no-untyped-def, assignment"

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from maya.kernels.lattice.torch_op import LatticeResult, rnnt_lattice_torch, tdt_lattice_torch
from maya.kernels.triton_common import launching_on

# Stands for minus infinity inside the kernels, because log_add of two infinities would be nan.
NEG = tl.constexpr(-1e30)
IMPOSSIBLE = tl.constexpr(-1e29)

# Wavefronts and U + 1. They change from batch to batch, so no kernel is compiled for one value.
SIZES = ("N", "W")
MAX_COLUMNS = 1024
MAX_DURATION = 8  # each frame of it keeps two more vectors of a wavefront in registers
SHORT = 4  # durations up to it fit beside wavefronts of MAX_COLUMNS, longer ones beside a quarter of it


def rnnt_lattice_triton(
    blank: Tensor, label: Tensor, frames: list[int], labels: list[int], *, with_posteriors: bool,
    label_ends: bool = False,
) -> LatticeResult:  # fmt: skip
    """As `rnnt_lattice`. torch runs fp64, empty tensors and U + 1 > MAX_COLUMNS.

    Results are fp32; the posteriors are strided views. All outputs are deterministic.
    """
    if not _fits(blank):
        return rnnt_lattice_torch(
            blank, label, frames, labels, with_posteriors=with_posteriors, label_ends=label_ends
        )
    skew = 0 if label_ends else 1
    kernels = (rnnt_alpha_kernel, rnnt_mass_kernel)
    return _run(kernels, [blank, label], frames, labels, with_posteriors, skew, SKEW=skew)


def tdt_lattice_triton(
    blank: Tensor, label: Tensor, durations_log_prob: Tensor, frames: list[int], labels: list[int], *,
    durations: Sequence[int], with_posteriors: bool,
) -> LatticeResult:  # fmt: skip
    """As `tdt_lattice`. torch runs the cases of `rnnt_lattice_triton`, durations over MAX_DURATION, and
    U + 1 > MAX_COLUMNS / 4 with durations over SHORT.
    """
    durations = tuple(durations)
    if not _fits(blank, durations[-1]):
        return tdt_lattice_torch(
            blank, label, durations_log_prob, frames, labels,
            durations=durations, with_posteriors=with_posteriors,
        )  # fmt: skip
    weights = [blank, label, durations_log_prob]
    kernels = (tdt_alpha_kernel, tdt_mass_kernel)
    return _run(kernels, weights, frames, labels, with_posteriors, 1, DURATIONS=durations)


def _run(
    kernels: tuple, weights: list[Tensor], frames: list[int], labels: list[int], with_posteriors: bool,
    skew: int, **constants: Any,
) -> LatticeResult:  # fmt: skip
    """Launches the alpha kernel and, for posteriors, the mass kernel, a program per utterance."""
    batch, _, width = weights[0].shape
    cells = [skewed(x, skew) for x in weights]
    sizes = torch.tensor(list(zip(frames, labels, strict=True)), dtype=torch.int32)
    sizes = sizes.to(cells[0].device, non_blocking=True)
    alpha = torch.empty_like(cells[0], dtype=torch.float64)
    log_prob = cells[0].new_empty(batch)
    columns, num_warps, stages = wavefront(width, max(constants.get("DURATIONS", (1,))))
    constants |= {"BU": columns, "STAGES": stages, "num_warps": num_warps}
    shape = (alpha.shape[1], width)
    with launching_on(alpha):
        kernels[0][(batch,)](*cells, sizes, alpha, log_prob, *shape, **constants)
        if not with_posteriors:
            return LatticeResult(log_prob)
        mass = [torch.zeros_like(x) for x in cells]
        kernels[1][(batch,)](*cells, sizes, alpha, log_prob, *mass, *shape, **constants)
    return LatticeResult(log_prob, *(unskewed(x, y.shape, skew) for x, y in zip(mass, weights, strict=True)))


def wavefront(width: int, longest: int = 1) -> tuple[int, int, int]:
    """Columns (a power of two), warps and prefetching stages for U + 1 = `width` and the longest duration.

    One warp shifts by shuffles; several shift through shared memory with barriers. So there is one warp as
    long as the wavefronts of a program fit into 255 registers. The prefetched rows must fit into shared
    memory, 99 KiB on small GPUs. kernels/compile_gate.py checks both.
    """
    columns = max(32, triton.next_power_of_2(width))
    if longest == 1:
        return columns, max(1, columns // 256), 4 if columns <= 512 else 2
    return columns, max(1, columns // (128 if longest <= SHORT else 64)), 3 if columns <= 256 else 1


def skewed(x: Tensor, skew: int) -> Tensor:
    """(B, S, U+1) as (B, wavefronts, U+1) or (B, S, U+1, D) as (B, wavefronts, D, U+1), fp32.

    Cell (t, u) is at wavefront t + skew * u. Elements that are no cell are left uninitialised.
    """
    batch, size, width, *durations = x.shape
    shape = (batch, size + skew * (width - 1) + 1, *durations, width)
    out = x.new_empty(shape, dtype=torch.float32)
    unskewed(out, x.shape, skew).copy_(x)
    return out


def unskewed(x: Tensor, shape: Sequence[int], skew: int) -> Tensor:
    """A view by (b, t, u) or (b, t, u, d) of a tensor stored as `skewed` stores it."""
    s_b, s_n, *s_d = x.stride()[:-1]
    return x.as_strided(tuple(shape), (s_b, s_n, skew * s_n + 1, *s_d))


def _fits(blank: Tensor, longest: int = 1) -> bool:
    columns = MAX_COLUMNS if longest <= SHORT else MAX_COLUMNS // 4 if longest <= MAX_DURATION else 0
    return blank.dtype != torch.float64 and blank.numel() > 0 and blank.shape[2] <= columns


@triton.jit
def utterance(sizes, N, W, BU: tl.constexpr):
    """The utterance of this program, the offset of its first wavefront, the columns u, T and U."""
    i_b = tl.program_id(0)
    return (
        i_b,
        i_b.to(tl.int64) * N * W,
        tl.arange(0, BU),
        tl.load(sizes + 2 * i_b),
        tl.load(sizes + 2 * i_b + 1),
    )


@triton.jit
def repeated(b_x, COUNT: tl.constexpr):
    """A tuple of COUNT times b_x."""
    out = (b_x,)
    for _ in tl.static_range(1, COUNT):
        out = out + (b_x,)
    return out


@triton.jit
def log_add(b_x, b_y):
    """log(exp x + exp y) of fp64; nan stays nan."""
    gap = -tl.abs(b_x - b_y).to(tl.float32)
    return tl.maximum(b_x, b_y) + tl.log(1.0 + tl.exp(gap))


@triton.jit
def log_sum(terms):
    """log sum exp over a tuple of fp64 vectors; nan stays nan."""
    b_max = terms[0]
    for i in tl.static_range(1, len(terms)):
        b_max = tl.maximum(b_max, terms[i])
    b_sum = tl.exp((terms[0] - b_max).to(tl.float32))
    for i in tl.static_range(1, len(terms)):
        b_sum += tl.exp((terms[i] - b_max).to(tl.float32))
    return b_max + tl.log(b_sum)


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
def load_weight(p_weight, m_cell):
    """Log weights, with NEG for -inf and outside the cells; nan stays nan."""
    b_weight = tl.load(p_weight, mask=m_cell, other=NEG)
    return tl.where(b_weight < NEG, NEG, b_weight)


@triton.jit
def share(b_source, b_target):
    """exp(alpha + weight - alpha of the target), at most 1; nan stays nan.

    For a target that is no node the difference is large, but its mass, which multiplies the share, is 0.
    """
    gap = (b_source - b_target).to(tl.float32)
    return tl.exp(tl.where(gap > 0, 0.0, gap))


@triton.jit
def store_end(p_log_prob, b_alpha, T, U, o_u):
    """Stores alpha at (T, U), in the last wavefront, as the log probability; -inf without a path."""
    end = tl.sum(tl.where(o_u == U, b_alpha, 0.0), 0)
    possible = (T > 0) & (end >= IMPOSSIBLE) | (end != end)
    tl.store(p_log_prob, tl.where(possible, end, float("-inf")).to(tl.float32))


@triton.jit(do_not_specialize=SIZES)
def rnnt_alpha_kernel(
    blank,  # fp32 [b, n, u], as label
    label,
    sizes,  # int32 [b, 2]: T, U
    alpha,  # fp64 [b, n, u], out
    log_prob,  # fp32 [b], out
    N, W,
    SKEW: tl.constexpr,  # 1: labels take no frame; 0: they take one
    BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b, o_b, o_u, T, U = utterance(sizes, N, W, BU)
    m_u = o_u <= U
    b_alpha = tl.where(o_u == 0, 0.0, NEG).to(tl.float64)
    tl.store(alpha + o_b + o_u, b_alpha, mask=m_u)
    for i_n in tl.range(1, T + SKEW * U + 1, num_stages=STAGES):
        o_source = o_b + (i_n - 1) * W + o_u
        o_t = i_n - SKEW * o_u  # of the nodes entered; the source cells in the same column are at o_t - 1
        m_cell = (o_t >= 1) & (o_t <= T) & m_u
        b_blank = b_alpha + load_weight(blank + o_source, m_cell)
        b_label = tl.gather(b_alpha + load_weight(label + o_source, m_cell), tl.maximum(o_u - 1, 0), 0)
        b_label = tl.where(o_u > 0, b_label, NEG)
        m_node = (o_t < T) & m_u | (o_t == T) & (o_u == U)
        b_alpha = log_add(b_blank, b_label)
        b_alpha = tl.where((b_alpha < NEG) | (m_node == 0), NEG, b_alpha)
        tl.store(alpha + o_b + i_n * W + o_u, b_alpha, mask=m_u)
    store_end(log_prob + i_b, b_alpha, T, U, o_u)


@triton.jit(do_not_specialize=SIZES)
def rnnt_mass_kernel(
    blank, label, sizes, alpha, log_prob,
    blank_mass,  # fp32 [b, n, u], out: posteriors; elements outside the cells are not written
    label_mass, N, W, SKEW: tl.constexpr, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    i_b, o_b, o_u, T, U = utterance(sizes, N, W, BU)
    last = T + SKEW * U
    end_mass = tl.where(tl.load(log_prob + i_b) == float("-inf"), 0.0, 1.0)
    b_mass = tl.where(o_u == U, end_mass, 0.0)  # of the nodes of wavefront i_n + 1
    for i_step in tl.range(0, last, num_stages=STAGES):
        i_n = last - 1 - i_step
        o_cell = o_b + i_n * W + o_u
        o_t = i_n - SKEW * o_u
        m_cell = (o_t >= 0) & (o_t < T) & (o_u <= U)
        m_label = m_cell & (o_u < U)
        b_alpha = tl.load(alpha + o_cell, mask=m_cell, other=NEG)
        b_alpha_blank = tl.load(alpha + o_cell + W, mask=m_cell, other=0.0)
        b_alpha_label = tl.load(alpha + o_cell + W + 1, mask=m_label, other=0.0)
        b_blank = b_mass * share(b_alpha + load_weight(blank + o_cell, m_cell), b_alpha_blank)
        b_next_mass = tl.gather(b_mass, tl.minimum(o_u + 1, BU - 1), 0)
        b_label = b_next_mass * share(b_alpha + load_weight(label + o_cell, m_cell), b_alpha_label)
        b_blank = tl.where(m_cell, b_blank, 0.0)
        b_label = tl.where(m_label, b_label, 0.0)
        tl.store(blank_mass + o_cell, b_blank, mask=m_cell)
        tl.store(label_mass + o_cell, b_label, mask=m_cell)
        b_mass = b_blank + b_label


@triton.jit(do_not_specialize=SIZES)
def tdt_alpha_kernel(
    blank,  # fp32 [b, n, u], as label
    label,
    duration,  # fp32 [b, n, d, u]
    sizes, alpha, log_prob, N, W,
    DURATIONS: tl.constexpr,  # tuple, ascending
    BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = len(DURATIONS)
    i_b, o_b, o_u, T, U = utterance(sizes, N, W, BU)
    m_u = o_u <= U
    b_alpha = tl.where(o_u == 0, 0.0, NEG).to(tl.float64)
    tl.store(alpha + o_b + o_u, b_alpha, mask=m_u)
    # alpha + blank and alpha + label of the wavefronts before i_n, the nearest first.
    b_none = tl.full((BU,), NEG, tl.float64)
    b_blanks = repeated(b_none, DURATIONS[D - 1])
    b_labels = repeated(b_none, DURATIONS[D - 1] + 1)
    for i_n in tl.range(1, T + U + 1, num_stages=STAGES):
        o_source = (i_n - 1) * W + o_u
        o_t = i_n - o_u
        m_cell = (o_t >= 1) & (o_t <= T) & m_u
        b_blanks = pushed(b_alpha + load_weight(blank + o_b + o_source, m_cell), b_blanks)
        b_labels = pushed(b_alpha + load_weight(label + o_b + o_source, m_cell), b_labels)
        blank_terms = ()
        label_terms = ()
        for i_d in tl.static_range(D):
            p_duration = duration + o_b * D + i_d * W + o_u
            if DURATIONS[i_d] > 0:
                m_cell = (o_t >= DURATIONS[i_d]) & (o_t < T + DURATIONS[i_d]) & m_u
                b_duration = load_weight(p_duration + (i_n - DURATIONS[i_d]) * D * W, m_cell)
                blank_terms = blank_terms + (b_blanks[DURATIONS[i_d] - 1] + b_duration,)
            m_cell = (o_t >= 1 + DURATIONS[i_d]) & (o_t <= T + DURATIONS[i_d]) & m_u
            b_duration = load_weight(p_duration + (i_n - 1 - DURATIONS[i_d]) * D * W, m_cell)
            label_terms = label_terms + (b_labels[DURATIONS[i_d]] + b_duration,)
        b_blank = log_sum(blank_terms)
        b_label = tl.gather(log_sum(label_terms), tl.maximum(o_u - 1, 0), 0)
        b_label = tl.where((o_u > 0) & (o_t < T), b_label, NEG)  # a label may not land on T
        m_node = (o_t < T) & m_u | (o_t == T) & (o_u == U)
        b_alpha = log_add(b_blank, b_label)
        b_alpha = tl.where((b_alpha < NEG) | (m_node == 0), NEG, b_alpha)
        tl.store(alpha + o_b + i_n * W + o_u, b_alpha, mask=m_u)
    store_end(log_prob + i_b, b_alpha, T, U, o_u)


@triton.jit(do_not_specialize=SIZES)
def tdt_mass_kernel(
    blank, label, duration, sizes, alpha, log_prob,
    blank_mass,  # fp32 [b, n, u], out, as label_mass: posteriors; elements outside the cells are not written
    label_mass,
    duration_mass,  # fp32 [b, n, d, u], out
    N, W, DURATIONS: tl.constexpr, BU: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = len(DURATIONS)
    i_b, o_b, o_u, T, U = utterance(sizes, N, W, BU)
    last = T + U
    end_mass = tl.where(tl.load(log_prob + i_b) == float("-inf"), 0.0, 1.0)
    b_mass = tl.where(o_u == U, end_mass, 0.0)
    # Masses of the nodes of the wavefronts after i_n, the nearest first: in the same column, and in the next.
    b_none = tl.zeros((BU,), tl.float32)
    b_masses = repeated(b_none, DURATIONS[D - 1])
    b_next_masses = repeated(b_none, DURATIONS[D - 1] + 1)
    for i_step in tl.range(0, last, num_stages=STAGES):
        i_n = last - 1 - i_step
        o_cell = o_b + i_n * W + o_u
        o_t = i_n - o_u
        m_cell = (o_t >= 0) & (o_t < T) & (o_u <= U)
        b_masses = pushed(b_mass + 0.0, b_masses)
        b_next_masses = pushed(tl.gather(b_mass, tl.minimum(o_u + 1, BU - 1), 0), b_next_masses)
        b_alpha = tl.load(alpha + o_cell, mask=m_cell, other=NEG)
        b_blank = b_alpha + load_weight(blank + o_cell, m_cell)
        b_label = b_alpha + load_weight(label + o_cell, m_cell)
        b_blank_mass = tl.zeros((BU,), tl.float32)
        b_label_mass = tl.zeros((BU,), tl.float32)
        for i_d in tl.static_range(D):
            o_duration = (o_b + i_n * W) * D + i_d * W + o_u
            b_duration = load_weight(duration + o_duration, m_cell)
            m_lands = m_cell & (o_u < U) & (o_t + DURATIONS[i_d] < T)
            b_target = tl.load(alpha + o_cell + (DURATIONS[i_d] + 1) * W + 1, mask=m_lands, other=0.0)
            b_share = share(b_label + b_duration, b_target)
            b_by_label = tl.where(m_lands, b_next_masses[DURATIONS[i_d]] * b_share, 0.0)
            b_both = b_by_label
            if DURATIONS[i_d] > 0:
                o_later = o_t + DURATIONS[i_d]
                m_lands = m_cell & ((o_later < T) | (o_later == T) & (o_u == U))
                b_target = tl.load(alpha + o_cell + DURATIONS[i_d] * W, mask=m_lands, other=0.0)
                b_share = share(b_blank + b_duration, b_target)
                b_by_blank = tl.where(m_lands, b_masses[DURATIONS[i_d] - 1] * b_share, 0.0)
                b_both += b_by_blank
                b_blank_mass += b_by_blank
            b_label_mass += b_by_label
            tl.store(duration_mass + o_duration, b_both, mask=m_cell)
        tl.store(blank_mass + o_cell, b_blank_mass, mask=m_cell)
        tl.store(label_mass + o_cell, b_label_mass, mask=m_cell)
        b_mass = b_blank_mass + b_label_mass
