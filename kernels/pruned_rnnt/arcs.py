"""What the three types of pruned RNN-T make of log probabilities: weights of arcs, and masses back.

"regular": a label takes no frame and the last arc is a blank, as in Graves 2012. "modified": a label takes
one frame, from (t, u) to (t+1, u+1), and may be the last arc. "constrained": as modified, and the next
state's blank is paid on the same frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.lattice import LatticeResult, lattice_dtype, rnnt_lattice

TYPES = ("regular", "modified", "constrained")


@dataclass(frozen=True, slots=True)
class ArcRules:
    """rnnt_type: one of TYPES. delay_penalty: nats by which a label is dearer with each frame it waits."""

    rnnt_type: str = "regular"
    delay_penalty: float = 0.0


def arc_weights(blank: Tensor, label: Tensor, frames: list[int], rules: ArcRules) -> tuple[Tensor, Tensor]:
    """Weights of the blank and label arcs, (B, S, U+1), from the log probabilities of both.

    A label on frame t gains delay_penalty ((T - 1) / 2 - t): nothing on average over the frames, more for
    early ones. Column U of `label` is no arc and is passed through.
    """
    if rules.rnnt_type == "constrained":
        label = torch.cat([label[..., :-1] + blank[..., 1:], label[..., -1:]], -1)
    if rules.delay_penalty:
        t = torch.arange(label.shape[1], device=label.device, dtype=label.dtype)
        middle = (torch.tensor(frames, device=label.device, dtype=label.dtype) - 1) / 2
        label = label + rules.delay_penalty * (middle[:, None] - t)[:, :, None]
    return blank, label


def run_lattice(
    blank: Tensor,
    label: Tensor,
    frames: list[int],
    labels: list[int],
    rules: ArcRules,
    *,
    with_posteriors: bool,
    backend: str,
) -> LatticeResult:
    """Sum over the paths of `rules`; blank, label: log probabilities (B, S, U+1), read where valid."""
    if backend != "triton":  # whose kernels take fp32 weights and widen the sums themselves
        wide = lattice_dtype(blank.device)
        blank, label = blank.to(wide), label.to(wide)
    weights = arc_weights(blank, label, frames, rules)
    return rnnt_lattice(
        *weights, frames, labels,
        with_posteriors=with_posteriors, label_ends=rules.rnnt_type != "regular", backend=backend,
    )  # fmt: skip


def score_masses(result: LatticeResult, rules: ArcRules) -> tuple[Tensor, Tensor]:
    """d log P / d log probability of blank and of label at each cell, (B, S, U+1), from arc posteriors."""
    blank, label = result.blank, result.label
    assert blank is not None and label is not None
    if rules.rnnt_type == "constrained":
        blank = blank.clone()
        blank[..., 1:] += label[..., :-1]
    return blank, label
