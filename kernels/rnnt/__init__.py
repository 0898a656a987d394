"""RNN-T loss: minus the log probability of a transcript, summed over all alignments (Graves 2012)."""

import torch
from torch import Tensor

from maya.kernels.checks import check_targets, check_tensor, choose_backend
from maya.kernels.rnnt.fused import fused_rnnt_loss
from maya.kernels.rnnt.torch_op import checked_loss
from maya.kernels.uncompiled import uncompiled


@uncompiled  # its gradient is written by hand
def rnnt_loss(
    logits: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, *, blank: int,
    fastemit: float = 0.0, clamp: float | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """RNN-T loss of each utterance, (B,), in nats; fp64 for fp64 logits, fp32 otherwise.

    logits: raw joint outputs (B, S, U+1, V), any float dtype; need not be contiguous. They are normalised
    here.
    targets: (B, U) ints below V and not `blank`; padding is ignored. logit_lens, target_lens: (B,) ints. They
      may be on the CPU: then nothing waits for the device. Otherwise the host waits for it once.
    fastemit: FastEmit's lambda (Yu et al. 2021, arXiv 2010.11148): label arcs get (1 + lambda) of their
      gradient; the value is scaled by 1 + lambda, so it is not the integral of the gradient.
    clamp: if above 0, each element of the gradient of the logits is clipped to [-clamp, clamp] before the
      incoming gradient scales it.
    backend: "auto", "torch", "triton" (for the lattice; torch always computes on the logits) or "reference"
      (the definition, slow).

    A row without frames has no alignment: its loss is inf and its gradient 0, as for a row whose every path
    has probability 0. Raises ValueError for shapes, lengths or targets that do not fit.
    """
    op = "rnnt_loss"
    chosen = choose_backend(op, backend, logits)
    if not fastemit >= 0:
        raise ValueError(f"{op}: fastemit must not be negative, not {fastemit}")
    check_tensor(op, "logits", logits, (None,) * 4)
    lens = {"logit_lens": logit_lens, "target_lens": target_lens}
    transcripts = check_targets(op, logits, targets, lens, tuple(logits.shape), blank)
    clamp = None if clamp is None or clamp <= 0 else float(clamp)
    with torch.autocast(logits.device.type, enabled=False):
        return checked_loss(logits, transcripts, fastemit, clamp, chosen)


__all__ = ["fused_rnnt_loss", "rnnt_loss"]
