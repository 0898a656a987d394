"""RNN-T loss, of logits and fused with the joint; the operators live in `maya.kernels.rnnt`."""

from maya.kernels.rnnt import fused_rnnt_loss, rnnt_loss

__all__ = ["fused_rnnt_loss", "rnnt_loss"]
