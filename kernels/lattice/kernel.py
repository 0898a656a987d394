"""Triton form of the lattices: two sweeps over the wavefronts of an utterance, a program per utterance.

Wavefront n holds the nodes with t + u = n (label_ends: t = n), one u per column. Every arc enters a later
wavefront than it leaves, in column u or u + 1, so a step costs one shift between columns. README.md derives
the sweeps:

1. `arcs_kernel` stores the log weight of every arc by the node that it enters, [b, n, arc, u], and -1e30
   where there is no such arc. So the sweeps need no masks, and never see the padding.
2. The alpha sweep stores no alphas. It stores the shares in which the arcs into a node carry its probability.
   RNN-T stores only the smaller of two shares, TDT all of them. Alphas are fp64, but only their sums are
   computed in fp64: exp and log see differences, in fp32. An fp32 alpha of -3000 (310 arcs at a vocabulary of
   32768) would have steps of 2.4e-4, and every posterior that relative error.
3. The mass sweep multiplies: the mass of a node flows back over the arcs by their shares. It has no
   exponentials and no betas. It writes the posteriors of the arcs over their weights.
4. `cells_kernel` adds up the posteriors by the cell that the arcs leave.

Names in kernels/, as in flash-linear-attention: i_ an index, o_ offsets, p_ pointers, b_ a block in
registers, m_ a mask; capitals are sizes, B* those of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from maya.kernels.lattice.jit import (
    arcs_kernel,
    cells_kernel,
    rnnt_alpha_kernel,
    rnnt_mass_kernel,
    tdt_alpha_kernel,
    tdt_mass_kernel,
)
from maya.kernels.lattice.torch_op import LatticeResult, rnnt_lattice_torch, tdt_lattice_torch
from maya.kernels.triton_common import launching_on

MAX_COLUMNS = 1024
MAX_DURATION = 8  # each frame of it keeps two more fp64 vectors of a wavefront in registers
SHORT = 4  # durations up to it fit beside wavefronts of MAX_COLUMNS, longer ones beside half of it
MAX_STAGES = (
    6  # rows are prefetched five steps ahead; a load from L2 takes two or three steps of a mass sweep
)
PREFETCHED_BYTES = 64 << 10  # small GPUs have 99 KiB of shared memory, and shifts need a part
MAX_PENDING = 60  # loads in flight behind a wait: the instruction counts to 63


def rnnt_lattice_triton(
    blank: Tensor, label: Tensor, frames: list[int], labels: list[int], *, with_posteriors: bool,
    label_ends: bool = False,
) -> LatticeResult:  # fmt: skip
    """As `rnnt_lattice`, deterministic, with fp32 results. torch runs fp64, empty tensors and
    U + 1 > MAX_COLUMNS.
    """
    if not _fits(blank):
        return rnnt_lattice_torch(
            blank, label, frames, labels, with_posteriors=with_posteriors, label_ends=label_ends
        )
    sweeps = _Sweeps(blank, label, None, frames, labels, label_ends=label_ends)
    constants = {"SKEW": sweeps.skew}
    return sweeps.run(
        rnnt_alpha_kernel, rnnt_mass_kernel, constants, shares=1, with_posteriors=with_posteriors
    )


def tdt_lattice_triton(
    blank: Tensor, label: Tensor, durations_log_prob: Tensor, frames: list[int], labels: list[int], *,
    durations: Sequence[int], with_posteriors: bool,
) -> LatticeResult:  # fmt: skip
    """As `tdt_lattice`, deterministic, with fp32 results. torch runs the cases of `rnnt_lattice_triton`,
    durations over MAX_DURATION, and U + 1 > MAX_COLUMNS / 2 with durations over SHORT.
    """
    durations = tuple(durations)
    if not _fits(blank, durations[-1]):
        return tdt_lattice_torch(
            blank, label, durations_log_prob, frames, labels,
            durations=durations, with_posteriors=with_posteriors,
        )  # fmt: skip
    sweeps = _Sweeps(blank, label, durations_log_prob, frames, labels, durations=durations)
    return sweeps.run(
        tdt_alpha_kernel, tdt_mass_kernel, sweeps.kinds, shares=sweeps.arcs, with_posteriors=with_posteriors
    )


class _Sweeps:
    """A batch of lattices, and the launches of its kernels.

    kinds: the frames that each blank arc and each label arc takes. arcs: the number of both together.
    skew: by how much a label raises n beside its frames.
    """

    def __init__(
        self, blank: Tensor, label: Tensor, duration: Tensor | None, frames: list[int], labels: list[int], *,
        durations: tuple[int, ...] = (), label_ends: bool = False,
    ) -> None:  # fmt: skip
        self.batch, self.size, self.width = blank.shape
        self.cells = [x if x is None else x.contiguous() for x in (blank, label, duration)]
        self.skew = 0 if label_ends else 1
        blanks = tuple(d for d in durations if d > 0) or (1,)
        self.kinds = {"BLANKS": blanks, "LABELS": durations or (1 - self.skew,)}
        self.arcs = sum(map(len, self.kinds.values()))
        sizes = torch.tensor(list(zip(frames, labels, strict=True)), dtype=torch.int32)
        self.sizes = sizes.to(blank.device, non_blocking=True)

    def run(
        self, alpha_kernel: Any, mass_kernel: Any, constants: dict[str, Any], *, shares: int,
        with_posteriors: bool,
    ) -> LatticeResult:  # fmt: skip
        """constants: of the two sweeps alone. shares: numbers that are stored for a node."""
        w, rows = wavefront(self.width, self.arcs), self.size + self.skew * (self.width - 1)
        shape = (self.batch, rows, self.arcs, w.stride)
        arcs = torch.empty(shape, dtype=torch.float32, device=self.sizes.device)
        log_prob = arcs.new_empty(self.batch)
        stored = arcs.new_empty(self.batch, rows, shares, w.stride) if with_posteriors else None
        block = {"STRIDE": w.stride, "BU": w.columns}
        per_cell = {**self.kinds, **block, "SKEW": self.skew, "num_warps": min(8, w.columns // 32)}
        per_step = {**constants, **block, "STAGES": w.stages}
        sizes = (self.size, self.width, rows)
        with launching_on(arcs):
            arcs_kernel[(rows, self.batch)](*self.cells, self.sizes, arcs, *sizes, **per_cell)
            alpha_kernel[(self.batch,)](
                arcs, self.sizes, log_prob, stored, rows, num_warps=w.warps[0], **per_step
            )
            if stored is None:
                return LatticeResult(log_prob)
            mass_kernel[(self.batch,)](
                stored, self.sizes, log_prob, arcs, rows, num_warps=w.warps[1], **per_step
            )
            out = [x if x is None else torch.empty_like(x, dtype=torch.float32) for x in self.cells]
            cells_kernel[(self.size, self.batch)](arcs, self.sizes, *out, *sizes, **per_cell)
        return LatticeResult(log_prob, *out)


@dataclass(frozen=True, slots=True)
class Wavefront:
    """columns: of a program, a power of two; stride: columns that are stored; stages: of prefetching.

    warps: of the alpha sweep and of the mass sweep.
    """

    columns: int
    stride: int
    warps: tuple[int, int]
    stages: int


def wavefront(width: int, arcs: int) -> Wavefront:
    """How a program holds wavefronts of U + 1 = `width` columns, into each of which enter `arcs` arcs.

    README.md has the instructions of a step for other numbers of warps.
    """
    columns = max(32, triton.next_power_of_2(width))
    # A stride is compiled in. Eighths waste at most a quarter of the memory, and give four kernels an octave.
    eighth = columns // 8
    stride = columns if columns <= 64 else triton.cdiv(width, eighth) * eighth
    stages = MAX_STAGES
    row_bytes = 4 * arcs * columns
    while stages > 2 and ((stages - 1) * row_bytes > PREFETCHED_BYTES or (stages - 2) * arcs > MAX_PENDING):
        stages -= 1
    return Wavefront(columns, stride, (min(16, columns // 32), max(1, min(16, columns // 64))), stages)


def _fits(blank: Tensor, longest: int = 1) -> bool:
    columns = MAX_COLUMNS if longest <= SHORT else MAX_COLUMNS // 2 if longest <= MAX_DURATION else 0
    return blank.dtype != torch.float64 and blank.numel() > 0 and blank.shape[2] <= columns
