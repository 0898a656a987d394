"""CTC loss (Graves et al. 2006): torch's, with the house rules for precision and impossible utterances."""

import torch
from torch import Tensor
from torch.nn import functional as F


def ctc_loss(
    log_probs: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, *, blank: int
) -> Tensor:
    """CTC loss of each utterance, (B,), in nats; fp64 for fp64 input, fp32 otherwise, also under autocast.

    log_probs: (B, S, V) logits or log probabilities (they are normalised here, which leaves the latter as
      they are).
    targets: (B, U) ints below V and not `blank`; padding is ignored. logit_lens, target_lens: (B,) ints.

    A row with fewer frames than labels plus repeats has no alignment: its loss is inf and its gradient 0, as
    for a row whose every alignment has probability 0. Raises ValueError for shapes, lengths or targets that
    do not fit.
    """
    targets = _checked(log_probs, targets, logit_lens, target_lens, blank)
    wide = log_probs if log_probs.dtype == torch.float64 else log_probs.float()
    with torch.autocast(log_probs.device.type, enabled=False):
        normal = wide.log_softmax(-1)
        loss = F.ctc_loss(
            normal.transpose(0, 1), targets, logit_lens, target_lens, blank=blank, reduction="none"
        )
        # torch gives 0 for no frames and no labels; the other losses call that impossible, and so does this.
        impossible = (loss.detach() == float("inf")) | (logit_lens.to(loss.device) == 0)
        if normal.requires_grad:  # torch's gradient of an infinite loss is nan
            gone = impossible[:, None, None]
            normal.register_hook(lambda grad: None if grad is None else grad.masked_fill(gone, 0.0))
        return loss.masked_fill(impossible, float("inf"))


def _checked(
    log_probs: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, blank: int
) -> Tensor:
    """Targets (B, U) int64 with a legal id as padding; torch itself reads out of bounds on a wrong id."""
    if log_probs.dim() != 3 or not log_probs.is_floating_point():
        raise ValueError(
            f"ctc_loss: input must be floating (B, S, V), not {tuple(log_probs.shape)} {log_probs.dtype}"
        )
    batch, size, vocab = log_probs.shape
    if targets.dim() != 2 or targets.shape[0] != batch:
        raise ValueError(f"ctc_loss: targets must be ({batch}, U), not {tuple(targets.shape)}")
    for name, lens, most in (
        ("logit_lens", logit_lens, size),
        ("target_lens", target_lens, targets.shape[1]),
    ):
        if lens.shape != (batch,):
            raise ValueError(f"ctc_loss: {name} must be {(batch,)}, not {tuple(lens.shape)}")
        if batch and not 0 <= int(lens.min()) <= int(lens.max()) <= most:
            raise ValueError(f"ctc_loss: {name} must lie in 0..{most}, not {lens.tolist()}")
    if not 0 <= blank < vocab:
        raise ValueError(f"ctc_loss: blank {blank} is not one of {vocab} outputs")
    used = torch.arange(targets.shape[1], device=targets.device) < target_lens.to(targets.device)[:, None]
    wrong = used & ((targets < 0) | (targets >= vocab) | (targets == blank))
    if bool(wrong.any()):
        row = int(wrong.any(1).nonzero()[0])
        found = int(targets[row][wrong[row]][0])
        raise ValueError(
            f"ctc_loss: row {row} holds target {found}; targets are 0..{vocab - 1} without blank {blank}"
        )
    return torch.where(used, targets, 0).to(device=log_probs.device, dtype=torch.int64)
