"""Forward-backward over a transducer lattice in torch, one anti-diagonal of all utterances at a time.

Nodes are (t, u): t of T frames consumed, u of U labels emitted. A blank arc of duration d > 0 leads to (t+d,
u), a label arc of duration d >= 0 to (t+d, u+1). A path starts at (0, 0), and its last arc lands exactly on
(T, U); no other arc reaches T. README.md derives the algorithm:

* Every arc raises n = t + u by at least 1, so all nodes of one n are computed together.
* Tensors are stored skewed, [n, row, U - u], so that a step reads and writes a few contiguous rows.
* A step keeps its terms, exp(alpha of the source + weight - the largest). Divided by their sum, they are the
  shares in which the posterior mass of a node flows back over its arcs. The backward sweep only multiplies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from maya.kernels.precision import NEG_INF, compute_dtype, lattice_dtype

FLOOR = -1e30  # below any finite sum of log probabilities
LOG2_E = 1 / math.log(2.0)
BLANK, LABEL = 0, 1  # kinds of arc; also the number of labels that an arc emits
# From 32 MiB on, glibc asks the system for fresh pages every time, which costs 0.6 ms per MiB.
BLOCK_BYTES = 24 << 20


@dataclass(slots=True)
class LatticeResult:
    """Log probability of each transcript, (B,), and the posteriors of leaving a cell.

    blank, label: (B, S, U+1), leaving by a blank or by the next label, summed over durations.
    durations: (B, S, U+1, D), leaving with each duration, blank and label together; None for RNN-T.
    Posteriors are None if they were not requested, and 0 in cells that no path passes.
    """

    log_prob: Tensor
    blank: Tensor | None = None
    label: Tensor | None = None
    durations: Tensor | None = None


def rnnt_lattice_torch(
    blank: Tensor, label: Tensor, frames: list[int], labels: list[int], *, with_posteriors: bool,
    label_ends: bool = False,
) -> LatticeResult:  # fmt: skip
    """As `rnnt_lattice`; results are fp64 for fp64 log probabilities, fp32 otherwise."""
    label_frames = 1 if label_ends else 0
    sweep = _Sweep(blank, frames, labels, [(BLANK, 1), (LABEL, label_frames)])
    sweep.set_weight(BLANK, 1, blank, ends=True)
    sweep.set_weight(LABEL, label_frames, label, ends=label_ends)
    return sweep.run(with_posteriors)


def tdt_lattice_torch(
    blank: Tensor, label: Tensor, durations_log_prob: Tensor, frames: list[int], labels: list[int], *,
    durations: Sequence[int], with_posteriors: bool,
) -> LatticeResult:  # fmt: skip
    """As `tdt_lattice`; results are fp64 for fp64 log probabilities, fp32 otherwise."""
    arcs = [(kind, d) for d in durations for kind in (BLANK, LABEL) if d > 0 or kind == LABEL]
    sweep = _Sweep(blank, frames, labels, arcs)
    by_duration = dict(zip(durations, durations_log_prob.unbind(-1), strict=True))
    for kind, d in arcs:
        sweep.set_weight(kind, d, blank if kind == BLANK else label, by_duration[d], ends=kind == BLANK)
    return sweep.run(with_posteriors, durations)


class _Sweep:
    """A batch of lattices with (B, S, U+1) cells; `arcs`: (kind, duration) of the arcs that leave a cell.

    `entering` holds the arcs that enter each node: first their log weights, then their terms, then their
    posteriors. It is [n, kind, slot, row, column] in blocks of diagonals. An arc that raises n by `shift` has
    slot `window - shift`. Column U - u is followed by one for u = -1. That is no node, but labels enter u = 0
    from it as from any other column.
    `mass`: the posteriors of leaving a node, [window + n, kind, row, column].
    """

    def __init__(
        self, sample: Tensor, frames: list[int], labels: list[int], arcs: Sequence[tuple[int, int]]
    ) -> None:
        self.batch, self.size, width = sample.shape
        self.frames, self.labels, self.columns = frames, labels, width + 1
        self.longest = max(d for _, d in arcs)
        self.window = max(d + kind for kind, d in arcs)
        self.diagonals = self.size + width
        self.dtype, self.device = compute_dtype(sample.dtype), sample.device
        diagonal = torch.empty(2, self.window, self.batch, self.columns, dtype=self.dtype, device=self.device)
        step = max(1, BLOCK_BYTES // max(1, diagonal.nbytes))
        sizes = [min(step, self.diagonals - n) for n in range(0, self.diagonals, step)]
        self.entering = [diagonal.new_empty(n, *diagonal.shape) for n in sizes]
        used = {(kind, self.window - kind - d) for kind, d in arcs}
        for kind, slot in product((BLANK, LABEL), range(self.window)):
            for block in self.entering if (kind, slot) not in used else ():
                block[:, kind, slot] = NEG_INF
        # Arcs of one kind and duration by the cell that they leave, [row, o_frame + t, 2 + u]. The padding
        # holds the sources of all nodes with n < S + U + 1 and -1 <= u <= U, also those that are no cells.
        self.o_frame = width - 1 + self.longest
        shape = (self.batch, self.o_frame + self.size + width + 1, width + 2)
        self.padded = torch.full(shape, NEG_INF, dtype=self.dtype, device=self.device)

    def set_weight(
        self, kind: int, duration: int, weight: Tensor, addend: Tensor | float = 0.0, *, ends: bool
    ) -> None:
        """Log weights (B, S, U+1) of one sort of arc, weight + addend. ends: the arc may land on (T, U)."""
        cells = self.padded[:, self.o_frame : self.o_frame + self.size, 2:]
        torch.add(weight, addend, out=cells)
        for row, t, u in zip(cells, self.frames, self.labels, strict=True):
            # Arcs from frames before `last` stay before T, and those from `last` reach it.
            last, past = max(t - duration, 0), u + 1 - kind
            row[:last, past:] = NEG_INF
            if ends and t >= duration and u >= kind:
                row[last, : past - 1] = NEG_INF
                row[last, past:] = NEG_INF
                last += 1
            row[last:] = NEG_INF
        s_row, s_t, _ = self.padded.stride()
        o_source = (self.longest - duration) * s_t + self.columns - kind  # of the node n = 0, u = U
        shape = (self.diagonals, self.batch, self.columns)
        by_target = self.padded.as_strided(shape, (s_t, s_row, s_t - 1), o_source)
        first = 0
        for block in self.entering:
            block[:, kind, self.window - duration - kind] = by_target[first : first + len(block)]
            first += len(block)

    def run(self, with_posteriors: bool, durations: Sequence[int] = ()) -> LatticeResult:
        log_prob = self.forward()
        if not with_posteriors:
            return LatticeResult(log_prob)
        self.backward(log_prob)
        by_duration = self.posterior_of_durations(durations) if durations else None
        return LatticeResult(log_prob, self.posterior(BLANK), self.posterior(LABEL), by_duration)

    def forward(self) -> Tensor:
        """Log probabilities (B,); turns weights into terms.

        Alphas are in base 2. `exp` and `log` are avoided because torch takes them from a library that is
        slower than its own `exp2` and starts threads for a thousand elements.
        """
        count, window, batch, columns = self.diagonals, self.window, self.batch, self.columns
        wide = lattice_dtype(self.device)
        # In its last column, u = -2, nothing is ever written.
        alpha = self.padded.new_full((window + count, batch, columns + 1), NEG_INF, dtype=wide)
        alpha[window, :, columns - 2] = 0.0
        s_n, s_row, _ = alpha.stride()
        sources = alpha.as_strided((count, 2, window, batch, columns), (s_n, 1, s_n, s_row, 1))
        targets = alpha[window:, :, :-1]
        # One more term, never overwritten, keeps the largest above -inf, because -inf - -inf would be nan.
        terms = alpha.new_full((2 * window + 1, batch, columns), FLOOR)
        arc_terms = terms[:-1].view(2, window, batch, columns)
        self.sums = self.padded.new_ones(count, batch, columns)
        top, log = torch.empty_like(terms[0]), torch.empty_like(self.sums[0])
        log2_e = self.sums.new_tensor(LOG2_E)
        for source, target, total, arcs in self._steps(sources, targets):
            torch.add(source, arcs, alpha=LOG2_E, out=arc_terms)
            torch.amax(terms, 0, out=top)
            torch.sub(arc_terms, top, out=arcs).exp2_()
            torch.sum(arcs, (0, 1), out=total)
            torch.xlogy(log2_e, total, out=log)
            torch.add(top, log, out=target)
        # 0 in nodes that no path reaches, elsewhere at least 1, the largest term. 0 / 0 would be nan.
        self.sums.clamp_(min=1.0)
        log_prob = alpha[self._ends()] * math.log(2.0)
        log_prob[torch.tensor(self.frames) == 0] = NEG_INF
        return log_prob.to(self.dtype)

    def backward(self, log_prob: Tensor) -> None:
        """Moves a mass of 1 from (T, U) back to (0, 0); turns terms into posteriors."""
        count, window, batch, columns = self.diagonals, self.window, self.batch, self.columns
        self.mass = self.padded.new_zeros(window + count, 2, batch, columns + 1)
        s_n, s_kind, s_row, _ = self.mass.stride()
        ends = self._ends()
        self.mass[:, BLANK][ends] = (log_prob != NEG_INF).to(self.dtype)
        shape = (count, 2, window, batch, columns)
        sources = self.mass.as_strided(shape, (s_n, s_kind + 1, s_n, s_row, 1))
        targets = self.mass[window:, :, :, :-1]
        flow = torch.empty_like(self.sums[0])
        for source, target, total, arcs in reversed(self._steps(sources, targets)):
            torch.add(target[BLANK], target[LABEL], out=flow)
            source.add_(arcs.mul_(flow.div_(total)))
        self.mass[:, BLANK][ends] = 0.0

    def posterior(self, kind: int) -> Tensor:
        """Posterior of leaving each cell by one kind of arc, (B, S, U+1)."""
        return self._by_cell(self.mass[self.window :, kind]).contiguous()

    def posterior_of_durations(self, durations: Sequence[int]) -> Tensor:
        """Posterior of leaving each cell by an arc of each duration, (B, S, U+1, D)."""
        out = self.padded.new_empty(self.batch, self.size, self.columns - 1, len(durations))
        both = self.padded.new_empty(self.diagonals, self.batch, self.columns)
        for i, d in enumerate(durations):
            both.zero_()
            for kind in (BLANK, LABEL) if d > 0 else (LABEL,):
                shift, o_target = d + kind, 0
                for block in self.entering:
                    arcs = block[max(shift - o_target, 0) :, kind, self.window - shift]
                    o_source = max(o_target - shift, 0)
                    both[o_source : o_source + len(arcs), :, kind:] += arcs[..., : self.columns - kind]
                    o_target += len(block)
            out[..., i] = self._by_cell(both)
        return out

    def _steps(self, sources: Tensor, targets: Tensor) -> list[tuple[Any, Any, Any, Tensor]]:
        """(sources, target, sum, entering arcs) of each diagonal but the first, which no arc enters."""
        entering = [diagonal for block in self.entering for diagonal in block.unbind(0)]
        return list(zip(sources, targets, self.sums, entering, strict=True))[1:]

    def _by_cell(self, skewed: Tensor) -> Tensor:
        """A view (B, S, U+1) of a tensor that is stored as (n, row, U - u)."""
        s_n, s_row, _ = skewed.stride()
        shape, strides = (self.batch, self.size, self.columns - 1), (s_row, s_n, s_n - 1)
        return skewed.as_strided(shape, strides, skewed.storage_offset() + self.columns - 2)

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of (T, U) of each row: window + n, row, column."""
        rows = zip(self.frames, range(self.batch), self.labels, strict=True)
        places = [(self.window + t + u, row, self.columns - 2 - u) for t, row, u in rows]
        n, row, column = torch.tensor(places, dtype=torch.int64).view(-1, 3).to(self.device).unbind(-1)
        return n, row, column
