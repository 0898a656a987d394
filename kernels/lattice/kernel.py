"""Triton kernels for the lattices: one warp walks one utterance's wavefronts, which stay in its registers.

Wavefront n holds the nodes with t + u = n (label_ends: t = n), one u per column, and every arc leads to a
later one. Arcs within a kind go from column u to u, or all from u to u + 1, so a step costs one shift between
lanes. Tensors are stored skewed, [b, n, u], where a wavefront is one contiguous row.

Alphas are fp64, but only sums and maxima are made in fp64: exp and log see differences, in fp32. A plain fp32
alpha of -3000 (310 arcs at a vocabulary of 32768) has steps of 2.4e-4, which is a relative error of every
posterior.

The backward pass needs no betas (k2's mutual information does it so): the mass of a node flows back over its
incoming arcs in the proportions exp(alpha + weight - alpha of the node), which sum to 1. No step of it waits
for a logarithm, and mass 1 arrives in (0, 0).
"""

# What Triton compiles has no Python types, and its tuples grow.
# mypy: disable-error-code="no-untyped-def, assignment"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from maya.kernels.lattice import LatticeResult, rnnt_lattice, tdt_lattice

# Stands for minus infinity inside the kernels: log_add of two real ones would be nan.
NEG = tl.constexpr(-1e30)
IMPOSSIBLE = tl.constexpr(-1e29)

SIZES = ("wavefronts", "width")  # differ from batch to batch, and are not worth compiling anew for
MAX_COLUMNS = 1024
MAX_DURATION = 8  # each frame of it keeps two more vectors of a wavefront in registers
SHORT = 4  # durations up to it fit beside wavefronts of MAX_COLUMNS, longer ones beside a quarter of it


def rnnt_lattice_triton(
    blank: Tensor,
    label: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    with_posteriors: bool,
    label_ends: bool = False,
) -> LatticeResult:
    """As `rnnt_lattice`, which it hands fp64, empty tensors and U + 1 > MAX_COLUMNS back to.

    fp32 results, whose posteriors are strided views. All outputs are deterministic.
    """
    if not _fits(blank):
        return rnnt_lattice(
            blank, label, frames, labels,
            with_posteriors=with_posteriors, label_ends=label_ends, backend="torch",
        )  # fmt: skip
    skew = 0 if label_ends else 1
    batch, _, width = blank.shape
    cells = [skewed(x, skew) for x in (blank, label)]
    sizes = _sizes(frames, labels, blank.device)
    alpha = torch.empty_like(cells[0], dtype=torch.float64)
    log_prob = cells[0].new_empty(batch)
    columns, num_warps, stages = wavefront(width)
    shape = (alpha.shape[1], width)
    with torch.cuda.device_of(blank):
        rnnt_alpha_kernel[(batch,)](
            *cells, sizes, alpha, log_prob, *shape,
            SKEW=skew, COLUMNS=columns, STAGES=stages, num_warps=num_warps,
        )  # fmt: skip
        if not with_posteriors:
            return LatticeResult(log_prob)
        mass = [torch.zeros_like(x) for x in cells]
        rnnt_mass_kernel[(batch,)](
            *cells, sizes, alpha, log_prob, *mass, *shape,
            SKEW=skew, COLUMNS=columns, STAGES=stages, num_warps=num_warps,
        )  # fmt: skip
    return LatticeResult(log_prob, *(unskewed(x, blank.shape, skew) for x in mass))


def tdt_lattice_triton(
    blank: Tensor,
    label: Tensor,
    durations_log_prob: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    durations: Sequence[int],
    with_posteriors: bool,
) -> LatticeResult:
    """As `tdt_lattice`, which it hands durations over MAX_DURATION back to, and all that RNN-T's hands back
    (for durations over SHORT already U + 1 > MAX_COLUMNS / 4).
    """
    durations = tuple(durations)
    if not _fits(blank, durations[-1]):
        return tdt_lattice(
            blank, label, durations_log_prob, frames, labels,
            durations=durations, with_posteriors=with_posteriors, backend="torch",
        )  # fmt: skip
    batch, _, width = blank.shape
    weights = [skewed(x, 1) for x in (blank, label, durations_log_prob)]
    sizes = _sizes(frames, labels, blank.device)
    alpha = torch.empty_like(weights[0], dtype=torch.float64)
    log_prob = weights[0].new_empty(batch)
    columns, num_warps, stages = wavefront(width, durations[-1])
    shape = (alpha.shape[1], width)
    with torch.cuda.device_of(blank):
        tdt_alpha_kernel[(batch,)](
            *weights, sizes, alpha, log_prob, *shape,
            DURATIONS=durations, COLUMNS=columns, STAGES=stages, num_warps=num_warps,
        )  # fmt: skip
        if not with_posteriors:
            return LatticeResult(log_prob)
        mass = [torch.zeros_like(x) for x in weights]
        tdt_mass_kernel[(batch,)](
            *weights, sizes, alpha, log_prob, *mass, *shape,
            DURATIONS=durations, COLUMNS=columns, STAGES=stages, num_warps=num_warps,
        )  # fmt: skip
    shapes = (blank.shape, blank.shape, durations_log_prob.shape)
    return LatticeResult(log_prob, *(unskewed(x, y, 1) for x, y in zip(mass, shapes, strict=True)))


def wavefront(width: int, longest: int = 1) -> tuple[int, int, int]:
    """Columns (a power of two), warps and stages of prefetching for U + 1 = `width` and the longest duration.

    One warp shifts by shuffles, more shift through shared memory with barriers; so one, as long as the
    wavefronts that a program keeps fit into 255 registers without spilling. What is prefetched must fit
    into shared memory, of which small GPUs have 99 KiB. kernels/compile_gate.py checks both.
    """
    columns = max(32, triton.next_power_of_2(width))
    if longest == 1:
        return columns, max(1, columns // 256), 4 if columns <= 512 else 2
    return columns, max(1, columns // (128 if longest <= SHORT else 64)), 3 if columns <= 256 else 1


def skewed(x: Tensor, skew: int) -> Tensor:
    """(B, S, U+1) as (B, wavefronts, U+1) or (B, S, U+1, D) as (B, wavefronts, D, U+1), fp32.

    Cell (t, u) lies at wavefront t + skew * u. What is no cell is left as it is in memory.
    """
    batch, size, width, *durations = x.shape
    shape = (batch, size + skew * (width - 1) + 1, *durations, width)
    out = x.new_empty(shape, dtype=torch.float32)
    unskewed(out, x.shape, skew).copy_(x)
    return out


def unskewed(x: Tensor, shape: Sequence[int], skew: int) -> Tensor:
    """A view of `x`, which is stored as `skewed` does it, by (b, t, u) or (b, t, u, d)."""
    by_batch, by_n, *by_duration = x.stride()[:-1]
    return x.as_strided(tuple(shape), (by_batch, by_n, skew * by_n + 1, *by_duration))


def _fits(blank: Tensor, longest: int = 1) -> bool:
    columns = MAX_COLUMNS if longest <= SHORT else MAX_COLUMNS // 4 if longest <= MAX_DURATION else 0
    return blank.dtype != torch.float64 and blank.numel() > 0 and blank.shape[2] <= columns


def _sizes(frames: list[int], labels: list[int], device: torch.device) -> Tensor:
    return torch.tensor(list(zip(frames, labels, strict=True)), dtype=torch.int32).to(
        device, non_blocking=True
    )


@triton.jit
def log_add(x, y):
    """log(exp x + exp y) of fp64; nan stays nan."""
    gap = -tl.abs(x - y).to(tl.float32)
    return tl.maximum(x, y) + tl.log(1.0 + tl.exp(gap))


@triton.jit
def log_sum(terms):
    """log sum exp over a tuple of fp64 vectors; nan stays nan."""
    top = terms[0]
    for i in tl.static_range(1, len(terms)):
        top = tl.maximum(top, terms[i])
    total = tl.exp((terms[0] - top).to(tl.float32))
    for i in tl.static_range(1, len(terms)):
        total += tl.exp((terms[i] - top).to(tl.float32))
    return top + tl.log(total)


@triton.jit
def pushed(new, old):
    """`new` followed by `old` without its last.

    The additions change nothing, but Triton prefetches the loads of no loop that hands a carried value on as
    it is.
    """
    out = (new,)
    for i in tl.static_range(len(old) - 1):
        out = out + (old[i] + 0.0,)
    return out


@triton.jit
def load_weight(pointer, mask):
    """Log weights with NEG for -inf and where there is no cell; nan stays nan."""
    weight = tl.load(pointer, mask=mask, other=NEG)
    return tl.where(weight < NEG, NEG, weight)


@triton.jit
def share(of_source, of_target):
    """exp(alpha + weight - alpha of the node reached), at most 1 but for rounding; nan stays nan.

    Where the node reached is none, the difference is huge, and its mass, with which this is multiplied, 0.
    """
    gap = (of_source - of_target).to(tl.float32)
    return tl.exp(tl.where(gap > 0, 0.0, gap))


@triton.jit
def store_end(log_prob, alpha, frames, labels, u):
    """alpha at (T, U), the last wavefront, as log probability; -inf without a path."""
    end = tl.sum(tl.where(u == labels, alpha, 0.0), 0)
    possible = (frames > 0) & (end >= IMPOSSIBLE) | (end != end)
    tl.store(log_prob, tl.where(possible, end, float("-inf")).to(tl.float32))


@triton.jit(do_not_specialize=SIZES)
def rnnt_alpha_kernel(
    blank,  # fp32 [b, n, u], as label
    label,
    sizes,  # int32 [b, 2]: T, U
    alpha,  # fp64 [b, n, u], out
    log_prob,  # fp32 [b], out
    wavefronts,
    width,
    SKEW: tl.constexpr,  # 1: labels take no frame; 0: they take one
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    b = tl.program_id(0)
    u = tl.arange(0, COLUMNS)
    frames = tl.load(sizes + 2 * b)
    labels = tl.load(sizes + 2 * b + 1)
    start = b.to(tl.int64) * wavefronts * width
    used = u <= labels
    a = tl.where(u == 0, 0.0, NEG).to(tl.float64)
    tl.store(alpha + start + u, a, mask=used)
    for n in tl.range(1, frames + SKEW * labels + 1, num_stages=STAGES):
        left = start + (n - 1) * width + u
        t = n - SKEW * u  # of the nodes entered; the cells left in the same column are at t - 1
        cell = (t >= 1) & (t <= frames) & used
        by_blank = a + load_weight(blank + left, cell)
        by_label = tl.gather(a + load_weight(label + left, cell), tl.maximum(u - 1, 0), 0)
        by_label = tl.where(u > 0, by_label, NEG)
        node = (t < frames) & used | (t == frames) & (u == labels)
        a = log_add(by_blank, by_label)
        a = tl.where((a < NEG) | (node == 0), NEG, a)
        tl.store(alpha + start + n * width + u, a, mask=used)
    store_end(log_prob + b, a, frames, labels, u)


@triton.jit(do_not_specialize=SIZES)
def rnnt_mass_kernel(
    blank,
    label,
    sizes,
    alpha,
    log_prob,
    blank_mass,  # fp32 [b, n, u], out: posteriors; what is no cell is left alone
    label_mass,
    wavefronts,
    width,
    SKEW: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    b = tl.program_id(0)
    u = tl.arange(0, COLUMNS)
    frames = tl.load(sizes + 2 * b)
    labels = tl.load(sizes + 2 * b + 1)
    start = b.to(tl.int64) * wavefronts * width
    last = frames + SKEW * labels
    at_end = tl.where(tl.load(log_prob + b) == float("-inf"), 0.0, 1.0)
    mass = tl.where(u == labels, at_end, 0.0)  # of the nodes of wavefront n + 1
    for i in tl.range(0, last, num_stages=STAGES):
        n = last - 1 - i
        at = start + n * width + u
        t = n - SKEW * u
        cell = (t >= 0) & (t < frames) & (u <= labels)
        a = tl.load(alpha + at, mask=cell, other=NEG)
        straight = tl.load(alpha + at + width, mask=cell, other=0.0)
        across = tl.load(alpha + at + width + 1, mask=cell & (u < labels), other=0.0)
        by_blank = mass * share(a + load_weight(blank + at, cell), straight)
        to_right = tl.gather(mass, tl.minimum(u + 1, COLUMNS - 1), 0)
        by_label = to_right * share(a + load_weight(label + at, cell), across)
        by_blank = tl.where(cell, by_blank, 0.0)
        by_label = tl.where(cell & (u < labels), by_label, 0.0)
        tl.store(blank_mass + at, by_blank, mask=cell)
        tl.store(label_mass + at, by_label, mask=cell)
        mass = by_blank + by_label


@triton.jit(do_not_specialize=SIZES)
def tdt_alpha_kernel(
    blank,  # fp32 [b, n, u], as label
    label,
    duration,  # fp32 [b, n, d, u]
    sizes,
    alpha,
    log_prob,
    wavefronts,
    width,
    DURATIONS: tl.constexpr,  # tuple, rising
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    COUNT: tl.constexpr = len(DURATIONS)
    LONGEST: tl.constexpr = DURATIONS[COUNT - 1]
    b = tl.program_id(0)
    u = tl.arange(0, COLUMNS)
    frames = tl.load(sizes + 2 * b)
    labels = tl.load(sizes + 2 * b + 1)
    start = b.to(tl.int64) * wavefronts * width
    used = u <= labels
    a = tl.where(u == 0, 0.0, NEG).to(tl.float64)
    tl.store(alpha + start + u, a, mask=used)
    # alpha + blank and alpha + label of the wavefronts before n, the nearest first.
    none = tl.full((COLUMNS,), NEG, tl.float64)
    blanks = (none,)
    before = (none,)
    for _ in tl.static_range(1, LONGEST):
        blanks = blanks + (none,)
    for _ in tl.static_range(LONGEST):
        before = before + (none,)
    for n in tl.range(1, frames + labels + 1, num_stages=STAGES):
        left = (n - 1) * width + u
        t = n - u
        cell = (t >= 1) & (t <= frames) & used
        blanks = pushed(a + load_weight(blank + start + left, cell), blanks)
        before = pushed(a + load_weight(label + start + left, cell), before)
        blank_terms = ()
        label_terms = ()
        for i in tl.static_range(COUNT):
            row = duration + start * COUNT + i * width + u
            if DURATIONS[i] > 0:
                cell = (t >= DURATIONS[i]) & (t < frames + DURATIONS[i]) & used
                weight = load_weight(row + (n - DURATIONS[i]) * COUNT * width, cell)
                blank_terms = blank_terms + (blanks[DURATIONS[i] - 1] + weight,)
            cell = (t >= 1 + DURATIONS[i]) & (t <= frames + DURATIONS[i]) & used
            weight = load_weight(row + (n - 1 - DURATIONS[i]) * COUNT * width, cell)
            label_terms = label_terms + (before[DURATIONS[i]] + weight,)
        by_blank = log_sum(blank_terms)
        by_label = tl.gather(log_sum(label_terms), tl.maximum(u - 1, 0), 0)
        by_label = tl.where((u > 0) & (t < frames), by_label, NEG)  # a label may not land on T
        node = (t < frames) & used | (t == frames) & (u == labels)
        a = log_add(by_blank, by_label)
        a = tl.where((a < NEG) | (node == 0), NEG, a)
        tl.store(alpha + start + n * width + u, a, mask=used)
    store_end(log_prob + b, a, frames, labels, u)


@triton.jit(do_not_specialize=SIZES)
def tdt_mass_kernel(
    blank,
    label,
    duration,
    sizes,
    alpha,
    log_prob,
    blank_mass,  # fp32 [b, n, u], out, as label_mass: posteriors; what is no cell is left alone
    label_mass,
    duration_mass,  # fp32 [b, n, d, u], out
    wavefronts,
    width,
    DURATIONS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    COUNT: tl.constexpr = len(DURATIONS)
    LONGEST: tl.constexpr = DURATIONS[COUNT - 1]
    b = tl.program_id(0)
    u = tl.arange(0, COLUMNS)
    frames = tl.load(sizes + 2 * b)
    labels = tl.load(sizes + 2 * b + 1)
    start = b.to(tl.int64) * wavefronts * width
    last = frames + labels
    at_end = tl.where(tl.load(log_prob + b) == float("-inf"), 0.0, 1.0)
    mass = tl.where(u == labels, at_end, 0.0)
    # Masses of the nodes of the wavefronts after n, the nearest first: in the same column, one to the right.
    none = tl.zeros((COLUMNS,), tl.float32)
    straight = (none,)
    across = (none,)
    for _ in tl.static_range(1, LONGEST):
        straight = straight + (none,)
    for _ in tl.static_range(LONGEST):
        across = across + (none,)
    for step in tl.range(0, last, num_stages=STAGES):
        n = last - 1 - step
        at = start + n * width + u
        t = n - u
        cell = (t >= 0) & (t < frames) & (u <= labels)
        straight = pushed(mass + 0.0, straight)
        across = pushed(tl.gather(mass, tl.minimum(u + 1, COLUMNS - 1), 0), across)
        a = tl.load(alpha + at, mask=cell, other=NEG)
        of_blank = a + load_weight(blank + at, cell)
        of_label = a + load_weight(label + at, cell)
        all_blank = tl.zeros((COLUMNS,), tl.float32)
        all_label = tl.zeros((COLUMNS,), tl.float32)
        for i in tl.static_range(COUNT):
            row = (start + n * width) * COUNT + i * width + u
            weight = load_weight(duration + row, cell)
            lands = cell & (u < labels) & (t + DURATIONS[i] < frames)
            to = tl.load(alpha + at + (DURATIONS[i] + 1) * width + 1, mask=lands, other=0.0)
            by_label = tl.where(lands, across[DURATIONS[i]] * share(of_label + weight, to), 0.0)
            both = by_label
            if DURATIONS[i] > 0:
                later = t + DURATIONS[i]
                lands = cell & ((later < frames) | (later == frames) & (u == labels))
                to = tl.load(alpha + at + DURATIONS[i] * width, mask=lands, other=0.0)
                by_blank = tl.where(lands, straight[DURATIONS[i] - 1] * share(of_blank + weight, to), 0.0)
                both += by_blank
                all_blank += by_blank
            all_label += by_label
            tl.store(duration_mass + row, both, mask=cell)
        tl.store(blank_mass + at, all_blank, mask=cell)
        tl.store(label_mass + at, all_label, mask=cell)
        mass = all_blank + all_label
