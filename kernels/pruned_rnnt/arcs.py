"""The three types of pruned RNN-T: from log probabilities to weights of arcs, and from posteriors to masses.

"regular": a label takes no frame and the last arc is a blank, as in Graves 2012. "modified": a label takes
one frame, from (t, u) to (t+1, u+1), and may be the last arc. "constrained": as modified, and it
also pays for the next state's blank on the same frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.host import numbers_on
from maya.kernels.lattice import LatticeResult, rnnt_lattice
from maya.kernels.precision import lattice_dtype

TYPES = ("regular", "modified", "constrained")


@dataclass(frozen=True, slots=True)
class ArcRules:
    """rnnt_type: one of TYPES. delay_penalty: nats that a label loses for each frame that it comes later."""

    rnnt_type: str = "regular"
    delay_penalty: float = 0.0


def arc_weights(blank: Tensor, label: Tensor, frames: list[int], rules: ArcRules) -> tuple[Tensor, Tensor]:
    """Weights of the blank and label arcs, (B, S, U+1), from the log probabilities of both.

    A label on frame t gains delay_penalty ((T - 1) / 2 - t), which is 0 on average over the frames. Column U
    of `label` is no arc and is passed through.
    """
    if rules.rnnt_type == "constrained":
        label = torch.cat([label[..., :-1] + blank[..., 1:], label[..., -1:]], -1)
    if rules.delay_penalty:
        t = torch.arange(label.shape[1], device=label.device, dtype=label.dtype)
        middle = (numbers_on(label.device, frames, label.dtype) - 1) / 2
        label = label + rules.delay_penalty * (middle[:, None] - t)[:, :, None]
    return blank, label


def run_lattice(
    blank: Tensor, label: Tensor, transcripts: Transcripts, rules: ArcRules, *, with_posteriors: bool,
    backend: str,
) -> LatticeResult:  # fmt: skip
    """Sum over the paths of `rules`; blank, label: log probabilities (B, S, U+1), read where valid."""
    if backend != "triton":  # Triton's kernels take fp32 weights and widen the sums themselves
        wide = lattice_dtype(blank.device)
        blank, label = blank.to(wide), label.to(wide)
    return rnnt_lattice(
        *arc_weights(blank, label, transcripts.frames, rules), transcripts.frames, transcripts.labels,
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
