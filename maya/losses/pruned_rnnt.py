"""Pruned RNN-T: the cheap loss, its windows, and the loss on them; the operators live in
`maya.kernels.pruned_rnnt`.
"""

from maya.kernels.pruned_rnnt import (
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    simple_rnnt_loss,
)

__all__ = ["fused_pruned_rnnt_loss", "prune_ranges", "pruned_rnnt_loss", "simple_rnnt_loss"]
