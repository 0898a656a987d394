"""TDT loss, of logits and fused with the joint. The operators are in `maya.kernels.tdt`."""

from maya.kernels.tdt import fused_tdt_loss, tdt_loss

__all__ = ["fused_tdt_loss", "tdt_loss"]
