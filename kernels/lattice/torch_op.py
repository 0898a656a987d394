"""Forward-backward over a transducer lattice in torch, one anti-diagonal of all utterances at a time.

Nodes are (t, u): t of T frames consumed, u of U labels emitted. A blank arc of duration d > 0 leads to (t+d,
u), a label arc of duration d >= 0 to (t+d, u+1). A path starts at (0, 0) and lands with its last arc exactly
on (T, U); no other arc reaches T. README.md derives what is done here:

* every arc raises n = t + u by at least 1, so all nodes of one n are computed together;
* what a step reads and writes is stored skewed, [n, row, U - u], where it is a few contiguous rows;
* a step keeps its terms, exp(alpha of the source + weight - the largest). Divided by their sum they are the
  shares in which the posterior mass of a node flows back over its arcs: the backward sweep only multiplies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

NEG_INF = float("-inf")
FLOOR = -1e30  # below any sum of log probabilities but -inf
LOG2_E = 1 / math.log(2.0)
BLANK, LABEL = 0, 1  # kinds of arc; also the number of labels that one emits
# For 32 MiB and more glibc asks the system for fresh pages every time, which costs 0.6 ms per MiB.
BLOCK_BYTES = 24 << 20


@dataclass(slots=True)
class LatticeResult:
    """Log probability of each transcript, (B,), and the posteriors of leaving a cell.

    blank, label: (B, S, U+1), by a blank or by the next label, whatever the duration.
    durations: (B, S, U+1, D), with each duration, blank and label together; None for RNN-T.
    Posteriors are None when they were not asked for, and 0 where no path passes.
    """

    log_prob: Tensor
    blank: Tensor | None = None
    label: Tensor | None = None
    durations: Tensor | None = None


def lattice_dtype(device: torch.device) -> torch.dtype:
    """Of alphas, fp64: a long utterance's log probability eats half of fp32's digits."""
    return torch.float32 if device.type == "mps" else torch.float64


def rnnt_lattice_torch(
    blank: Tensor,
    label: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    with_posteriors: bool,
    label_ends: bool = False,
) -> LatticeResult:
    """As `rnnt_lattice`; results are fp64 for fp64 log probabilities, fp32 otherwise."""
    takes = 1 if label_ends else 0
    sweep = _Sweep(blank, frames, labels, [(BLANK, 1), (LABEL, takes)])
    sweep.set_weight(BLANK, 1, blank, ends=True)
    sweep.set_weight(LABEL, takes, label, ends=label_ends)
    log_prob = sweep.forward()
    if not with_posteriors:
        return LatticeResult(log_prob)
    sweep.backward(log_prob)
    return LatticeResult(log_prob, sweep.posterior(BLANK), sweep.posterior(LABEL))


def tdt_lattice_torch(
    blank: Tensor,
    label: Tensor,
    durations_log_prob: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    durations: Sequence[int],
    with_posteriors: bool,
) -> LatticeResult:
    """As `tdt_lattice`; results are fp64 for fp64 log probabilities, fp32 otherwise."""
    arcs = [(kind, d) for d in durations for kind in (BLANK, LABEL) if d > 0 or kind == LABEL]
    sweep = _Sweep(blank, frames, labels, arcs)
    of_duration = dict(zip(durations, durations_log_prob.unbind(-1), strict=True))
    for kind, d in arcs:
        sweep.set_weight(kind, d, blank if kind == BLANK else label, of_duration[d], ends=kind == BLANK)
    log_prob = sweep.forward()
    if not with_posteriors:
        return LatticeResult(log_prob)
    sweep.backward(log_prob)
    return LatticeResult(
        log_prob, sweep.posterior(BLANK), sweep.posterior(LABEL), sweep.posterior_of_durations(durations)
    )


class _Sweep:
    """One batch of lattices with (B, S, U+1) cells; `arcs`: the (kind, duration) of the arcs that leave one.

    `into` holds the arcs that enter each node, first their log weights, then their terms, then their
    posteriors: [n, kind, slot, row, column] in blocks of diagonals; slot `window - shift` for an arc that
    raises n by `shift`. Column U - u has one more after it, for u = -1: no node, but labels enter u = 0 from
    there as anywhere else.
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
        self.dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
        self.device = sample.device
        one = torch.empty(2, self.window, self.batch, self.columns, dtype=self.dtype, device=self.device)
        step = max(1, BLOCK_BYTES // max(1, one.nbytes))
        self.into = [
            one.new_empty(min(step, self.diagonals - n), *one.shape) for n in range(0, self.diagonals, step)
        ]
        used = {(kind, self.window - kind - d) for kind, d in arcs}
        for kind, slot in product((BLANK, LABEL), range(self.window)):
            for block in self.into if (kind, slot) not in used else ():
                block[:, kind, slot] = NEG_INF
        # Arcs of one kind and duration by the cell they leave, [row, above + t, 2 + u]: what enters a node of
        # n < S + U + 1 and -1 <= u <= U would leave from there, cell or not.
        self.above = width - 1 + self.longest
        shape = (self.batch, self.above + self.size + width + 1, width + 2)
        self.padded = torch.full(shape, NEG_INF, dtype=self.dtype, device=self.device)

    def set_weight(
        self, kind: int, duration: int, weight: Tensor, more: Tensor | None = None, *, ends: bool
    ) -> None:
        """Log weights (B, S, U+1) of one sort of arc, of two parts for TDT; ends: it may land on (T, U)."""
        inside = self.padded[:, self.above : self.above + self.size, 2:]
        torch.add(weight, 0.0 if more is None else more, out=inside)
        for of_row, t, u in zip(inside, self.frames, self.labels, strict=True):
            # Arcs from frames before `last` stay before T, and those from `last` reach it.
            last, past = max(t - duration, 0), u + 1 - kind
            of_row[:last, past:] = NEG_INF
            if ends and t >= duration and u >= kind:
                of_row[last, : past - 1] = NEG_INF
                of_row[last, past:] = NEG_INF
                last += 1
            of_row[last:] = NEG_INF
        by_row, by_t, _ = self.padded.stride()
        source = (self.longest - duration) * by_t + self.columns - kind  # of the node n = 0, u = U
        shape = (self.diagonals, self.batch, self.columns)
        by_target = self.padded.as_strided(shape, (by_t, by_row, by_t - 1), source)
        first = 0
        for block in self.into:
            block[:, kind, self.window - duration - kind] = by_target[first : first + len(block)]
            first += len(block)

    def forward(self) -> Tensor:
        """Log probabilities (B,); turns weights into terms.

        Alphas are base 2, and a step has no `exp` or `log`, which torch leaves to a library that is slower
        than its own `exp2` and starts threads for a thousand elements.
        """
        count, window, batch, columns = self.diagonals, self.window, self.batch, self.columns
        wide = lattice_dtype(self.device)
        # In its last column, u = -2, nothing is ever written.
        alpha = self.padded.new_full((window + count, batch, columns + 1), NEG_INF, dtype=wide)
        alpha[window, :, columns - 2] = 0.0
        by_n, by_row, _ = alpha.stride()
        sources = alpha.as_strided((count, 2, window, batch, columns), (by_n, 1, by_n, by_row, 1))
        targets = alpha[window:, :, :-1]
        # One more term, never overwritten, keeps the largest from being -inf: -inf - -inf would be nan.
        terms = alpha.new_full((2 * window + 1, batch, columns), FLOOR)
        of_arcs = terms[:-1].view(2, window, batch, columns)
        self.sums = self.padded.new_ones(count, batch, columns)
        top, log = torch.empty_like(terms[0]), torch.empty_like(self.sums[0])
        log2_e = self.sums.new_tensor(LOG2_E)
        steps = zip(*(x.unbind(0) for x in (sources, targets, self.sums)), self._into_by_n(), strict=True)
        for source, target, total, into in list(steps)[1:]:
            torch.add(source, into, alpha=LOG2_E, out=of_arcs)
            torch.amax(terms, 0, out=top)
            torch.sub(of_arcs, top, out=into).exp2_()
            torch.sum(into, (0, 1), out=total)
            torch.xlogy(log2_e, total, out=log)
            torch.add(top, log, out=target)
        # 0 where no path leads; elsewhere at least 1, the largest term. 0 / 0 would be nan.
        self.sums.clamp_(min=1.0)
        log_prob = alpha[self._ends()] * math.log(2.0)
        log_prob[torch.tensor(self.frames) == 0] = NEG_INF
        return log_prob.to(self.dtype)

    def backward(self, log_prob: Tensor) -> None:
        """Lets a mass of 1 flow from (T, U) to (0, 0); turns terms into posteriors."""
        count, window, batch, columns = self.diagonals, self.window, self.batch, self.columns
        self.mass = self.padded.new_zeros(window + count, 2, batch, columns + 1)
        by_n, by_kind, by_row, _ = self.mass.stride()
        ends = self._ends()
        self.mass[:, BLANK][ends] = (log_prob != NEG_INF).to(self.dtype)
        sources = self.mass.as_strided(
            (count, 2, window, batch, columns), (by_n, by_kind + 1, by_n, by_row, 1)
        )
        targets = self.mass[window:, :, :, :-1]
        flow = torch.empty_like(self.sums[0])
        steps = zip(*(x.unbind(0) for x in (sources, targets, self.sums)), self._into_by_n(), strict=True)
        for source, target, total, into in reversed(list(steps)[1:]):
            torch.add(target[BLANK], target[LABEL], out=flow)
            source.add_(into.mul_(flow.div_(total)))
        self.mass[:, BLANK][ends] = 0.0

    def posterior(self, kind: int) -> Tensor:
        """Of leaving each cell by one kind of arc, (B, S, U+1)."""
        return self._by_cell(self.mass[self.window :, kind]).contiguous()

    def posterior_of_durations(self, durations: Sequence[int]) -> Tensor:
        """Of leaving each cell by an arc of each duration, (B, S, U+1, D)."""
        out = self.padded.new_empty(self.batch, self.size, self.columns - 1, len(durations))
        both = self.padded.new_empty(self.diagonals, self.batch, self.columns)
        for i, d in enumerate(durations):
            both.zero_()
            for kind in (BLANK, LABEL) if d > 0 else (LABEL,):
                shift, entered = d + kind, 0
                for block in self.into:
                    arcs = block[max(shift - entered, 0) :, kind, self.window - shift]
                    left = max(entered - shift, 0)
                    both[left : left + len(arcs), :, kind:] += arcs[..., : self.columns - kind]
                    entered += len(block)
            out[..., i] = self._by_cell(both)
        return out

    def _into_by_n(self) -> list[Tensor]:
        return [diagonal for block in self.into for diagonal in block.unbind(0)]

    def _by_cell(self, skewed: Tensor) -> Tensor:
        """A view (B, S, U+1) of what is stored by (n, row, U - u)."""
        by_n, by_row, _ = skewed.stride()
        shape, strides = (self.batch, self.size, self.columns - 1), (by_row, by_n, by_n - 1)
        return skewed.as_strided(shape, strides, skewed.storage_offset() + self.columns - 2)

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where (T, U) of each row lies: window + n, row, column."""
        rows = zip(self.frames, range(self.batch), self.labels, strict=True)
        at = [(self.window + t + u, row, self.columns - 2 - u) for t, row, u in rows]
        n, row, column = torch.tensor(at, dtype=torch.int64).view(-1, 3).to(self.device).unbind(-1)
        return n, row, column
