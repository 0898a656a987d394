"""CTC loss (Graves et al. 2006): torch's, with the house rules for precision and impossible utterances."""

import torch
from torch import Tensor
from torch.nn import functional as F

from maya.kernels.checks import check_targets, check_tensor


def ctc_loss(
    log_probs: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, *, blank: int
) -> Tensor:
    """CTC loss of each utterance, (B,), in nats; fp64 for fp64 input, fp32 otherwise, also under autocast.

    log_probs: (B, S, V) logits or log probabilities (they are normalised here, which leaves the latter as
      they are).
      What lies past a row's frames is never read, and its gradient is 0.
    targets: (B, U) ints below V and not `blank`; padding is ignored. logit_lens, target_lens: (B,) ints; they
      may lie on the CPU.

    A row with fewer frames than labels plus repeats has no alignment: its loss is inf and its gradient 0, as
    for a row whose every alignment has probability 0. Raises ValueError that names the argument which does
    not fit.
    """
    check_tensor("ctc_loss", "log_probs", log_probs, (None, None, None))
    check_tensor("ctc_loss", "targets", targets, (log_probs.shape[0], None), like=log_probs, floating=False)
    (batch, size, vocab), width = log_probs.shape, targets.shape[1] + 1
    lens = {"logit_lens": logit_lens, "target_lens": target_lens}
    targets, frames, labels = check_targets(
        "ctc_loss", log_probs, targets, lens, (batch, size, width, vocab), blank
    )
    n_frames = torch.tensor(frames, device=log_probs.device)
    padding = torch.arange(size, device=log_probs.device) >= n_frames[:, None]
    wide = log_probs if log_probs.dtype == torch.float64 else log_probs.float()
    if log_probs.numel() == 0:  # torch refuses it; without frames all rows are impossible
        return wide.flatten(1).sum(1) + float("inf")
    with torch.autocast(log_probs.device.type, enabled=False):
        # Else a nan in the padding would come back as its gradient.
        normal = wide.masked_fill(padding[..., None], 0.0).log_softmax(-1)
        on_host = torch.tensor(frames), torch.tensor(labels)
        loss = F.ctc_loss(normal.transpose(0, 1), targets, *on_host, blank=blank, reduction="none")
        # torch gives 0 for no frames and no labels; the other losses call that impossible, and so does this.
        impossible = (loss.detach() == float("inf")) | (n_frames == 0)
        if normal.requires_grad:  # torch's gradient of an infinite loss is nan
            gone = impossible[:, None, None]
            normal.register_hook(lambda grad: None if grad is None else grad.masked_fill(gone, 0.0))
        return loss.masked_fill(impossible, float("inf"))
