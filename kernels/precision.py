"""The dtypes of sums: softmaxes and losses in fp32 or wider, lattices in fp64 where the device has it."""

import torch
from torch import Tensor

NEG_INF = float("-inf")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, fp32 for everything else: the precision of a softmax and of a loss."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def lattice_dtype(device: torch.device) -> torch.dtype:
    """fp64, because the log probability of a long utterance uses up half of fp32's digits."""
    return torch.float32 if device.type == "mps" else torch.float64


def scores_dtype(backend: str, sample: Tensor) -> torch.dtype:
    """The dtype of the scores that a lattice of `backend` takes. Triton's widens its sums itself."""
    if backend == "triton" and sample.dtype != torch.float64:
        return torch.float32
    return lattice_dtype(sample.device)
