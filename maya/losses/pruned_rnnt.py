"""Pruned RNN-T: the simple loss, the windows, and the loss on windows. The operators are in
`maya.kernels.pruned_rnnt`.
"""

from maya.kernels.pruned_rnnt import (
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    simple_rnnt_loss,
)

__all__ = ["fused_pruned_rnnt_loss", "prune_ranges", "pruned_rnnt_loss", "simple_rnnt_loss"]
