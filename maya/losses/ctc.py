"""CTC loss (Graves et al. 2006), with the house rules for precision and impossible utterances.

On a CPU it is torch's. On CUDA with Triton it is our own (`maya.kernels.ctc`). torch's adds the gradient
there with atomics, so that two runs agree to rounding only, and it waits for the device to copy lengths:
three times in the forward pass and three times in the backward pass (LossCTC.cu). For fp64, and for texts of
more than 1023 tokens, it is torch's everywhere.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maya.kernels.checks import check_targets, check_tensor, choose_backend
from maya.kernels.ctc import MAX_LABELS, CTCLoss
from maya.kernels.host import numbers_on


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    logit_lens: Tensor,
    target_lens: Tensor,
    *,
    blank: int,
    backend: str = "auto",
) -> Tensor:
    """CTC loss of each utterance, (B,), in nats; fp64 for fp64 input, fp32 otherwise, also under autocast.

    log_probs: (B, S, V) logits or log probabilities. They are normalised here, which does not change log
      probabilities. Values past a row's frames are never read, and their gradient is 0.
    targets: (B, U) ints below V and not `blank`; padding is ignored. logit_lens, target_lens: (B,) ints; they
      may be on the CPU.
    backend: "auto" (Triton on CUDA, torch elsewhere), "torch" or "triton".

    A row with fewer frames than labels plus repeats has no alignment: its loss is inf and its gradient 0, as
    for a row whose every alignment has probability 0. Raises ValueError that names the argument.
    """
    chosen = choose_backend("ctc_loss", backend, log_probs, ("auto", "torch", "triton"))
    check_tensor("ctc_loss", "log_probs", log_probs, (None, None, None))
    check_tensor("ctc_loss", "targets", targets, (log_probs.shape[0], None), floating=False)
    (batch, size, vocab), width = log_probs.shape, targets.shape[1] + 1
    by_name = {"logit_lens": logit_lens, "target_lens": target_lens}
    transcripts = check_targets("ctc_loss", log_probs, targets, by_name, (batch, size, width, vocab), blank)
    n_frames = numbers_on(log_probs.device, transcripts.frames)
    padding = torch.arange(size, device=log_probs.device) >= n_frames[:, None]
    wide = log_probs if log_probs.dtype == torch.float64 else log_probs.float()
    if log_probs.numel() == 0:  # torch raises an error; without frames, all rows are impossible
        return wide.flatten(1).sum(1) + float("inf")
    with torch.autocast(log_probs.device.type, enabled=False):
        # Otherwise a nan in the padding would return as its gradient.
        normal = wide.masked_fill(padding[..., None], 0.0).log_softmax(-1)
        if chosen == "triton" and wide.dtype == torch.float32 and width <= MAX_LABELS + 1:
            own: Tensor = CTCLoss.apply(normal, transcripts)
            return own
        # Lists: of tensors, torch would first make lists.
        lens: tuple[Any, Any] = transcripts.frames, transcripts.labels
        inputs = (normal.transpose(0, 1), transcripts.targets, *lens)
        loss = F.ctc_loss(*inputs, blank=blank, reduction="none")
        # torch returns 0 for no frames and no labels. That is impossible here, as in the other losses.
        impossible = (loss.detach() == float("inf")) | (n_frames == 0)
        if normal.requires_grad:  # torch's gradient of an infinite loss is nan
            mask = impossible[:, None, None]
            normal.register_hook(lambda grad: None if grad is None else grad.masked_fill(mask, 0.0))
        return loss.masked_fill(impossible, float("inf"))
