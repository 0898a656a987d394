"""Sequence losses, one value per utterance, (B,), never reduced. The training loop chooses the divisor.

All compute in fp32 under autocast (fp64 for fp64 input). An utterance that cannot be aligned has an infinite
loss and a gradient of exactly zero, so that the loop can report it and continue.
"""

from maya.losses.cr_ctc import cr_ctc_loss
from maya.losses.ctc import ctc_loss
from maya.losses.mmi import mmi_loss
from maya.losses.pruned_rnnt import (
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    simple_rnnt_loss,
)
from maya.losses.rnnt import fused_rnnt_loss, rnnt_loss
from maya.losses.tdt import fused_tdt_loss, tdt_loss

__all__ = [
    "cr_ctc_loss",
    "ctc_loss",
    "fused_pruned_rnnt_loss",
    "fused_rnnt_loss",
    "fused_tdt_loss",
    "mmi_loss",
    "prune_ranges",
    "pruned_rnnt_loss",
    "rnnt_loss",
    "simple_rnnt_loss",
    "tdt_loss",
]
