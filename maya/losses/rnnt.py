"""RNN-T loss, of logits and fused with the joint. The operators are in `maya.kernels.rnnt`."""

from maya.kernels.rnnt import fused_rnnt_loss, rnnt_loss

__all__ = ["fused_rnnt_loss", "rnnt_loss"]
