"""TDT loss by its definition (Xu et al. 2023, arXiv 2304.06795), one node at a time: the truth for fast
forms.
"""

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.lattice.reference import impossible, lattice_log_prob, next_labels


def tdt_loss_reference(
    token_logits: Tensor, duration_logits: Tensor, transcripts: Transcripts, durations: tuple[int, ...],
    sigma: float = 0.0,
) -> Tensor:  # fmt: skip
    """(B,) losses; logits as for `tdt_loss`. Differentiable; slow; meant for fp64."""
    rows = zip(token_logits, duration_logits, strict=True)
    return torch.stack([_row(x, w, transcripts, b, durations, sigma) for b, (x, w) in enumerate(rows)])


def _row(
    token_logits: Tensor, duration_logits: Tensor, transcripts: Transcripts, b: int,
    durations: tuple[int, ...], sigma: float,
) -> Tensor:  # fmt: skip
    frames, labels = transcripts.frames[b], transcripts.labels[b]
    tokens = token_logits[:frames, : labels + 1].log_softmax(-1) - sigma
    by_duration = duration_logits[:frames, : labels + 1].log_softmax(-1).unbind(-1)
    index = next_labels(transcripts.targets[b, :labels])[None, :, None].expand(frames, -1, 1)
    blank, label = tokens[..., transcripts.blank], tokens.gather(-1, index)[..., 0]
    blanks = {d: blank + w for d, w in zip(durations, by_duration, strict=True) if d > 0}
    label_arcs = {d: label + w for d, w in zip(durations, by_duration, strict=True)}
    log_prob = lattice_log_prob(blanks, label_arcs, frames, labels)
    return impossible(token_logits, duration_logits) if log_prob is None else -log_prob
