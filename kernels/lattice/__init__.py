"""Forward-backward over transducer lattices: log probabilities of transcripts, posteriors of arcs.

What RNN-T, pruned RNN-T and TDT share. The operators here take log probabilities, not logits, and know no
autograd: a loss turns the posteriors into its gradient.
"""

import importlib.util
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
    label_ends: bool = False,
    backend: str = "auto",
) -> LatticeResult:
    """RNN-T: a blank takes one frame, a label none. blank, label: log probabilities (B, S, U+1).

    frames, labels: T <= S and U of each row, on the host. What lies outside a row's T and U is never read.
    label_ends: pruned RNN-T's "modified" and "constrained" lattices: a label takes one frame too, from
      (t, u) to (t+1, u+1), and may be the last arc, landing on (T, U).
    backend: "auto" (Triton on CUDA where it can be imported, else torch), "torch" or "triton".

    Raises ValueError for an unknown backend, and for "triton" where it cannot run.
    """
    if _backend("rnnt_lattice", backend, blank) == "triton":
        from maya.kernels.lattice.kernel import rnnt_lattice_triton

        return rnnt_lattice_triton(
            blank, label, frames, labels, with_posteriors=with_posteriors, label_ends=label_ends
        )
    takes = 1 if label_ends else 0
    arcs = Arcs(blank={1: blank}, label={takes: label}, label_ends=label_ends)
    found = forward_backward(arcs, frames, labels, with_posteriors=with_posteriors)
    if not with_posteriors:
        return LatticeResult(found.log_prob)
    return LatticeResult(found.log_prob, found.blank[1], found.label[takes])


def tdt_lattice(
    blank: Tensor,
    label: Tensor,
    durations_log_prob: Tensor,
    frames: list[int],
    labels: list[int],
    *,
    durations: Sequence[int],
    with_posteriors: bool,
    backend: str = "auto",
) -> LatticeResult:
    """TDT: blank, label (B, S, U+1) and durations_log_prob (B, S, U+1, D); an arc weighs the sum of two.

    durations: frames, D of them, rising, with a positive one. frames, labels, backend, errors: as for
    `rnnt_lattice`.
    """
    if _backend("tdt_lattice", backend, blank) == "triton":
        from maya.kernels.lattice.kernel import tdt_lattice_triton

        return tdt_lattice_triton(
            blank, label, durations_log_prob, frames, labels,
            durations=durations, with_posteriors=with_posteriors,
        )  # fmt: skip
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


def _backend(op: str, requested: str, sample: Tensor) -> str:
    """What will run, "torch" or "triton"; ValueError where the requested one cannot."""
    if requested not in ("auto", "torch", "triton"):
        raise ValueError(f'{op}: unknown backend {requested!r}; use "auto", "torch" or "triton"')
    if requested == "torch" or (requested == "auto" and not sample.is_cuda):
        return "torch"
    if importlib.util.find_spec("triton") is None:
        if requested == "auto":
            return "torch"
        raise ValueError(f'{op}: backend "triton" needs the package triton, which is not installed')
    if not sample.is_cuda:
        import triton

        if not triton.knobs.runtime.interpret:
            raise ValueError(
                f'{op}: backend "triton" needs CUDA tensors, not {sample.device} '
                "(on a CPU only Triton's interpreter runs it, with TRITON_INTERPRET=1)"
            )
    return "triton"


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
