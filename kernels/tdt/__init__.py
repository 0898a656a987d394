"""TDT loss: a transducer that predicts with each token how many frames it lasts (Xu et al. 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maya.kernels.checks import check_durations, check_targets, check_tensor, choose_backend
from maya.kernels.precision import compute_dtype
from maya.kernels.rnnt.torch_op import checked_loss
from maya.kernels.tdt.fused import draw, fused_tdt_loss
from maya.kernels.tdt.reference import tdt_loss_reference
from maya.kernels.tdt.torch_op import TdtLoss
from maya.kernels.uncompiled import uncompiled


@uncompiled  # its gradient is written by hand
def tdt_loss(
    token_logits: Tensor, duration_logits: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor,
    *, durations: Sequence[int], blank: int, sigma: float = 0.0, backend: str = "auto", omega: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """TDT loss of each utterance, (B,), in nats; fp64 for fp64 token logits, fp32 otherwise.

    token_logits (B, S, U+1, V) and duration_logits (B, S, U+1, len(durations)): raw joint outputs of any
      float dtype, each normalised here over its own last axis; need not be contiguous.
    targets, logit_lens, target_lens: as for `rnnt_loss`.
    durations: numbers of frames, ascending, at least one of them positive. There is no blank of duration 0.
      The last token is a blank that lands exactly on logit_len; a label may not reach or pass it.
    sigma: subtracted from every token log probability, so that long jumps are preferred (0.05 in the paper,
      0.02 in FastConformer recipes). The value is then no likelihood.
    omega: probability that this call computes `rnnt_loss` of the token logits instead, without sigma and
      with a zero gradient for the durations. There is one draw per call, from `generator` (torch's global CPU
      generator if None); ranks whose generators share a seed agree. Pass 0 when not training.
    backend: "auto", "torch", "triton" (for the lattice; torch always computes on the logits) or "reference"
      (the definition, slow).

    A row that has no path (too few frames, frames that no sum of durations reaches, probability 0) has loss
    inf and gradient 0. Raises ValueError for shapes, lengths, targets or durations that do not fit.
    """
    op = "tdt_loss"
    check_tensor(op, "token_logits", token_logits, (None,) * 4)
    check_tensor(op, "duration_logits", duration_logits, (*token_logits.shape[:3], None), like=token_logits)
    durations = check_durations(op, durations, duration_logits.shape[-1])
    lens = {"logit_lens": logit_lens, "target_lens": target_lens}
    transcripts = check_targets(op, token_logits, targets, lens, tuple(token_logits.shape), blank)
    chosen = choose_backend(op, backend, token_logits)
    with torch.autocast(token_logits.device.type, enabled=False):
        if omega > 0 and draw(generator) < omega:
            loss = checked_loss(token_logits, transcripts, 0.0, None, chosen)
            return loss + duration_logits[..., :0].sum()  # durations stay in the graph, with zero gradient
        if chosen == "reference":
            dtype = compute_dtype(token_logits.dtype)
            wide = token_logits.to(dtype), duration_logits.to(dtype)
            return tdt_loss_reference(*wide, transcripts, durations, sigma)
        return TdtLoss.apply(token_logits, duration_logits, transcripts, durations, float(sigma), chosen)


__all__ = ["fused_tdt_loss", "tdt_loss"]
