"""What the Triton operators share: tiles and precision of a product, the device of a launch, and functions.

lattice/kernel.py explains the prefixes of names.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def sigmoid(b_x):
    """In base 2, as the hardware computes exponentials."""
    return 1 / (1 + tl.exp2(b_x * -LOG2E))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows and columns of the result, depth of a step; warps and pipeline stages of a program.

    registers: the most of a thread, None: the compiler chooses, and may spill a few to fit one more program.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    registers: int | None = None

    def constants(self, rows: str, columns: str, depth: str, precision: str) -> dict[str, str | int]:
        """The keyword arguments of a launch; the kernel's names of the block sizes are given."""
        sizes = {rows: self.rows, columns: self.columns, depth: self.depth}
        options = {"num_warps": self.warps, "num_stages": self.stages}
        if self.registers is not None:
            options["maxnreg"] = self.registers
        return {"PRECISION": precision, **sizes, **options}


def product_precision(dtype: torch.dtype) -> str:
    """The `input_precision` of products of this dtype: "tf32" for fp32 if torch's switch for CUDA says so.

    The switch is read by its new name, because `allow_tf32` raises if the program has used the new ones.
    """
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


def launching_on(x: Tensor) -> torch.cuda.device_of:
    """A context in which Triton launches on the device of x, which need not be the current one."""
    return torch.cuda.device_of(x)
