"""RNN-T loss. The operator lives in `maya.kernels.rnnt`; this is its public door."""

from maya.kernels.rnnt import rnnt_loss

__all__ = ["rnnt_loss"]
