"""Pruned RNN-T: a cheap joiner locates the alignment, and the full joiner is computed only near it (Kuang et
al. 2022, arXiv 2206.13236).

There are three steps: `simple_rnnt_loss` gives a loss and occupations, `prune_ranges` turns these into
windows, and `pruned_rnnt_loss` or `fused_pruned_rnnt_loss` is the loss on the windows. README.md has the
formulas.
"""

import torch
from torch import Tensor

from maya.kernels.checks import check_lens, check_targets, check_tensor, choose_backend
from maya.kernels.joint.checks import check_states
from maya.kernels.precision import compute_dtype
from maya.kernels.pruned_rnnt.arcs import TYPES
from maya.kernels.pruned_rnnt.checks import check_rules, check_smoothing, check_windows
from maya.kernels.pruned_rnnt.fused import fused_pruned_rnnt_loss
from maya.kernels.pruned_rnnt.pruned import PrunedLoss
from maya.kernels.pruned_rnnt.ranges import window_size, window_starts
from maya.kernels.pruned_rnnt.reference import pruned_loss_reference, simple_loss_reference
from maya.kernels.pruned_rnnt.simple import SimpleLoss


def simple_rnnt_loss(
    am: Tensor, lm: Tensor, targets: Tensor, am_lens: Tensor, target_lens: Tensor, *, blank: int,
    lm_only_scale: float = 0.0, am_only_scale: float = 0.0, rnnt_type: str = "regular",
    delay_penalty: float = 0.0, backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """RNN-T loss of the logits am + lm, which are never stored: loss (B,), px_occupation, py_occupation.

    am: (B, S, V) and lm: (B, U+1, V), of the same float dtype: the encoder and the predictor, each projected
      to the vocabulary. Need not be contiguous; values past a row's lengths are never read.
    targets: (B, U) ints below V and not `blank`; padding is ignored. am_lens, target_lens: (B,) ints. They
      may be on the CPU: then nothing waits for the device, unless the backend is "torch" on CUDA.
    lm_only_scale, am_only_scale: the arcs' log probabilities are a mixture, in logs, of softmax(am + lm),
      softmax(lm) and softmax(am + log of the mean softmax(lm) in the batch). The first has the rest of 1.
      A term with scale 0 is not computed. The third makes a row's loss depend on its batch.
    rnnt_type: "regular"; "modified", in which a label takes a frame (S >= U); "constrained", in which it also
      pays for the blank of the next state on the same frame.
    delay_penalty: nats that a label gains for each frame that it comes earlier (k2 pull request 955).
    backend: "auto" (the lattice in Triton on CUDA, the rest in torch), "torch", "triton" or "reference".

    px_occupation, py_occupation: (B, S, U+1) without gradient, the probabilities that a path leaves the cell
      by its next label, and by a blank; 0 on padding, and in rows without a path.

    Loss in nats and occupations in fp64 for fp64 input, else fp32, also under autocast. A row without any
    path has loss inf and gradient 0. Raises ValueError that names the argument.
    """
    op = "simple_rnnt_loss"
    chosen = choose_backend(op, backend, am)
    rules = check_rules(op, rnnt_type, delay_penalty)
    smoothing = check_smoothing(op, lm_only_scale, am_only_scale)
    check_tensor(op, "am", am, (None, None, None))
    batch, size, vocab = am.shape
    check_states(op, "lm", lm, "am", am, vocab)
    lens = {"am_lens": am_lens, "target_lens": target_lens}
    transcripts = check_targets(op, am, targets, lens, (batch, size, lm.shape[1], vocab), blank)
    with torch.autocast(am.device.type, enabled=False):
        if chosen == "reference":
            dtype = compute_dtype(am.dtype)
            return simple_loss_reference(am.to(dtype), lm.to(dtype), transcripts, smoothing, rules)
        return SimpleLoss.apply(am, lm, transcripts, smoothing, rules, chosen)


def prune_ranges(
    px_occupation: Tensor, py_occupation: Tensor, am_lens: Tensor, target_lens: Tensor, *, s_range: int,
    rnnt_type: str = "regular",
) -> Tensor:  # fmt: skip
    """The window of label positions of each frame, (B, S, R) int64: R consecutive positions.

    px_occupation, py_occupation: (B, S, U+1) as `simple_rnnt_loss` gives them. am_lens, target_lens: (B,).
    s_range: R. It is raised if windows of s_range could not follow a text of this batch to its end, and
      lowered to at most U + 1.

    Windows start at position 0, never move back, and move at most R - 1 positions from one frame to the next
    (1 if a label takes a frame). The last frame's window holds the end of the text. Raises ValueError that
    names the argument.
    """
    op = "prune_ranges"
    rules = check_rules(op, rnnt_type)
    check_tensor(op, "px_occupation", px_occupation, (None, None, None))
    batch, size, width = px_occupation.shape
    check_tensor(op, "py_occupation", py_occupation, (batch, size, width), like=px_occupation)
    if width < 1:
        raise ValueError(f"{op}: px_occupation must have U + 1 columns, at least 1, not 0")
    if s_range < 1:
        raise ValueError(f"{op}: s_range must be at least 1, not {s_range}")
    frames = check_lens(op, "am_lens", am_lens, batch, size, px_occupation)
    labels = check_lens(op, "target_lens", target_lens, batch, width - 1, px_occupation)
    window = window_size(int(s_range), frames, labels, width, rules)
    with torch.no_grad():
        starts = window_starts(px_occupation, py_occupation, frames, labels, window, rules)
    return starts[..., None] + torch.arange(window, device=starts.device)


def pruned_rnnt_loss(
    logits: Tensor, targets: Tensor, ranges: Tensor, am_lens: Tensor, target_lens: Tensor, *, blank: int,
    rnnt_type: str = "regular", delay_penalty: float = 0.0, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """RNN-T loss over the paths that stay in the windows, (B,), in nats.

    logits: raw joint outputs (B, S, R, V) at the label positions `ranges`, any float dtype; need not be
      contiguous. They are normalised here.
    ranges: (B, S, R) ints from `prune_ranges`: on each frame consecutive positions in 0..U. On CUDA, others
      end the process by an assertion of the device, because the host does not read them.
    targets, am_lens, target_lens, blank, rnnt_type, delay_penalty, backend: as for `simple_rnnt_loss`.

    Padding of logits, targets and ranges is ignored. fp64 for fp64 logits, fp32 otherwise, also under
    autocast. A row without any path in its windows has loss inf and gradient 0. Raises ValueError that names
    the argument.
    """
    op = "pruned_rnnt_loss"
    chosen = choose_backend(op, backend, logits)
    rules = check_rules(op, rnnt_type, delay_penalty)
    check_tensor(op, "logits", logits, (None,) * 4)
    check_tensor(op, "targets", targets, (logits.shape[0], None), floating=False)
    batch, size, window, vocab = logits.shape
    width = targets.shape[1] + 1
    lens = {"am_lens": am_lens, "target_lens": target_lens}
    transcripts = check_targets(op, logits, targets, lens, (batch, size, width, vocab), blank)
    ranges = check_windows(op, ranges, (batch, size, window), width, transcripts.frames, logits)
    with torch.autocast(logits.device.type, enabled=False):
        if chosen == "reference":
            wide = logits.to(compute_dtype(logits.dtype))
            return pruned_loss_reference(wide, transcripts, ranges, rules)
        return PrunedLoss.apply(logits, transcripts, ranges, rules, chosen)


__all__ = [
    "TYPES", "fused_pruned_rnnt_loss", "prune_ranges", "pruned_rnnt_loss", "simple_rnnt_loss",
]  # fmt: skip
