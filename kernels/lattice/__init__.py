"""Forward-backward over transducer lattices: log probabilities of transcripts, posteriors of arcs.

What RNN-T, pruned RNN-T and TDT share. The operators here take log probabilities, not logits, and know no
autograd: a loss turns the posteriors into its gradient.
"""

import importlib.util
from collections.abc import Sequence

from torch import Tensor

from maya.kernels.lattice.torch_op import (
    NEG_INF,
    LatticeResult,
    lattice_dtype,
    rnnt_lattice_torch,
    tdt_lattice_torch,
)


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
    return rnnt_lattice_torch(
        blank, label, frames, labels, with_posteriors=with_posteriors, label_ends=label_ends
    )


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
    return tdt_lattice_torch(
        blank, label, durations_log_prob, frames, labels,
        durations=durations, with_posteriors=with_posteriors,
    )  # fmt: skip


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
    "LatticeResult",
    "lattice_dtype",
    "rnnt_lattice",
    "tdt_lattice",
]
