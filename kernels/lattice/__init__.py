"""Forward-backward over transducer lattices: log probabilities of transcripts and posteriors of arcs.

RNN-T, pruned RNN-T and TDT share these operators. They take log probabilities, not logits, and have no
autograd: each loss turns the posteriors into its gradient.
"""

from collections.abc import Sequence

from torch import Tensor

from maya.kernels.checks import choose_backend
from maya.kernels.lattice.torch_op import LatticeResult, rnnt_lattice_torch, tdt_lattice_torch

BACKENDS = ("auto", "torch", "triton")


def rnnt_lattice(
    blank: Tensor, label: Tensor, frames: list[int], labels: list[int], *, with_posteriors: bool,
    label_ends: bool = False, backend: str = "auto",
) -> LatticeResult:  # fmt: skip
    """RNN-T: a blank takes one frame, a label none. blank, label: log probabilities (B, S, U+1).

    frames, labels: T <= S and U of each row, on the host. Values beyond a row's T and U are never read.
    label_ends: pruned RNN-T's "modified" and "constrained" lattices, in which a label takes one frame too,
      from (t, u) to (t+1, u+1), and may be the last arc, which lands on (T, U).
    backend: "auto" (Triton on CUDA if it is installed, otherwise torch), "torch" or "triton".

    Raises ValueError for an unknown backend, and for "triton" if it cannot run.
    """
    run = rnnt_lattice_torch
    if choose_backend("rnnt_lattice", backend, blank, BACKENDS) == "triton":
        from maya.kernels.lattice.kernel import rnnt_lattice_triton as run
    return run(blank, label, frames, labels, with_posteriors=with_posteriors, label_ends=label_ends)


def tdt_lattice(
    blank: Tensor, label: Tensor, durations_log_prob: Tensor, frames: list[int], labels: list[int], *,
    durations: Sequence[int], with_posteriors: bool, backend: str = "auto",
) -> LatticeResult:  # fmt: skip
    """TDT: an arc weighs its blank or label, (B, S, U+1), plus its duration, (B, S, U+1, D).

    durations: D numbers of frames, ascending, at least one of them positive. frames, labels, backend, errors:
    as for `rnnt_lattice`.
    """
    run = tdt_lattice_torch
    if choose_backend("tdt_lattice", backend, blank, BACKENDS) == "triton":
        from maya.kernels.lattice.kernel import tdt_lattice_triton as run
    return run(
        blank, label, durations_log_prob, frames, labels, durations=durations, with_posteriors=with_posteriors
    )


__all__ = ["LatticeResult", "rnnt_lattice", "tdt_lattice"]
