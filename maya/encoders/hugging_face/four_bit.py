"""Linear layers of 4-bit weights that do not learn: NF4 (Dettmers et al. 2023, arXiv:2305.14314)."""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.errors import MayaError

BLOCK = 64  # weights that share a scale


def library() -> Any:
    """The functions of bitsandbytes. Raises MayaError where it is not installed."""
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise MayaError("weights of 4 bits need pip install 'maya-asr[4bit]' (bitsandbytes)") from error


class FourBitLinear(nn.Module):
    """x (..., K) → (..., N). Buffers: `packed` (N K / 2, 1) uint8, `scales` (N K / 64,) fp32, `bias` (N,).

    The weights are unpacked for each call, so that memory holds those of one layer at a time.
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.shape = linear.weight.shape
        count, functions = linear.weight.numel(), library()
        if self.shape[1] % BLOCK:  # the CPU kernel of bitsandbytes 0.50 rounds such rows to wrong values
            raise MayaError(
                f"4 bits need rows of whole blocks of {BLOCK} weights, and a layer has {tuple(self.shape)}"
            )
        self.register_buffer("packed", torch.zeros(count // 2, 1, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(count // BLOCK))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self._unpack, self._state = functions.dequantize_4bit, functions.QuantState
        self._code = functions.get_4bit_type("nf4", device="cpu")
        if not linear.weight.is_meta:
            self.store(linear.weight.detach())

    def store(self, weight: Tensor) -> None:
        """Take the weights (N, K), rounded."""
        packed, state = library().quantize_4bit(weight.float(), blocksize=BLOCK, quant_type="nf4")
        self.packed.copy_(packed)
        self.scales.copy_(state.absmax)

    @property
    def weight(self) -> Tensor:
        """The weights (N, K) fp32, unpacked."""
        state = self._state(
            absmax=self.scales.float(), shape=self.shape, code=self._code.to(self.packed.device),
            blocksize=BLOCK, quant_type="nf4", dtype=torch.float32,
        )  # fmt: skip
        weight: Tensor = self._unpack(self.packed, state)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def to_four_bit(module: nn.Module) -> None:
    """Replace the linear layers within a module, in place."""
    for name, part in module.named_children():
        if isinstance(part, nn.Linear):
            setattr(module, name, FourBitLinear(part))
        else:
            to_four_bit(part)
