"""Forward-backward over transducer lattices: log probabilities of transcripts, posteriors of arcs.

What RNN-T, pruned RNN-T and TDT share. The operators here take log probabilities, not logits, and know no
autograd: a loss turns the posteriors into its gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.lattice.torch_op import NEG_INF, Arcs, Posteriors, forward_backward, lattice_dtype


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


def rnnt_lattice(
    blank: Tensor,
    label: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    with_posteriors: bool,
) -> LatticeResult:
    """RNN-T: a blank takes one frame, a label none. blank, label: log probabilities (B, S, U+1)."""
    arcs = Arcs(blank={1: blank}, label={0: label})
    found = forward_backward(arcs, frames, labels, with_posteriors=with_posteriors)
    if not with_posteriors:
        return LatticeResult(found.log_prob)
    return LatticeResult(found.log_prob, found.blank[1], found.label[0])


def tdt_lattice(
    blank: Tensor,
    label: Tensor,
    durations_log_prob: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    durations: Sequence[int],
    with_posteriors: bool,
) -> LatticeResult:
    """TDT: blank, label (B, S, U+1) and durations_log_prob (B, S, U+1, D); an arc weighs the sum of two."""
    pairs = list(zip(durations, durations_log_prob.unbind(-1), strict=True))
    arcs = Arcs(
        blank={d: blank + weight for d, weight in pairs if d > 0},
        label={d: label + weight for d, weight in pairs},
    )
    found = forward_backward(arcs, frames, labels, with_posteriors=with_posteriors)
    if not with_posteriors:
        return LatticeResult(found.log_prob)
    by_duration = [found.label[d] + found.blank[d] if d > 0 else found.label[d] for d in durations]
    return LatticeResult(
        found.log_prob,
        torch.stack(list(found.blank.values())).sum(0),
        torch.stack(list(found.label.values())).sum(0),
        torch.stack(by_duration, -1),
    )


__all__ = [
    "NEG_INF",
    "Arcs",
    "LatticeResult",
    "Posteriors",
    "forward_backward",
    "lattice_dtype",
    "rnnt_lattice",
    "tdt_lattice",
]
