"""Losses for any training script: `from maya.kernels import fused_tdt_loss`. Fast weights: maya.kernels.lact.

docs/guides/use-the-losses.md shows each in a few lines. They need torch alone, and triton on a GPU. A name is
imported when it is first used, so that one operator does not load the others.
"""

import importlib
from typing import Any

_MODULES = {
    "rnnt": ("fused_rnnt_loss", "rnnt_loss"),
    "tdt": ("fused_tdt_loss", "tdt_loss"),
    "pruned_rnnt": ("fused_pruned_rnnt_loss", "prune_ranges", "pruned_rnnt_loss", "simple_rnnt_loss"),
}
__all__ = sorted(name for names in _MODULES.values() for name in names)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"maya.kernels.{module}"), name)
    raise AttributeError(f"maya.kernels has no {name}")
