"""TDT loss. The operator lives in `maya.kernels.tdt`; this is its public door."""

from maya.kernels.tdt import tdt_loss

__all__ = ["tdt_loss"]
