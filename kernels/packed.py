"""Linear layers whose weights lie ready for products of few rows on a CPU, in fp32, without gradients.

For 16 rows, 176 x 704 and an AMD EPYC core: 63 us by MKL, 54 by oneDNN, which lays the weight out anew in
each call, 31 by oneDNN with a weight that lies ready. MKL is the fastest for two rows: 14 against 18 us.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.kernels import onednn

FEW_ROWS = 4  # below it MKL is the faster one
# oneDNN keeps a program for each number of rows, up to 2.5 MB each, so there are few numbers.
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def padded_batch(rows: int) -> int:
    """The next number of rows for which a program is kept."""
    return next((size for size in BATCHES if size >= rows), -(-rows // BATCHES[-1]) * BATCHES[-1])


class PackedLinear:
    """x W^T + b with W (N, K), b (N,). A weight of another layout is made with the first use of many rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self._packed: Tensor | None = None
        self._few = FEW_ROWS if onednn.available() else 1 << 62

    @classmethod
    def of(cls, *layers: nn.Linear | nn.Conv1d, scale: float = 1.0) -> "PackedLinear":
        """Layers behind each other in one product, their outputs times `scale`."""
        if len(layers) == 1 and scale == 1.0:
            return cls(layers[0].weight.flatten(1), layers[0].bias)
        weights = [layer.weight.flatten(1) for layer in layers]
        biases = [w.new_zeros(len(w)) if layer.bias is None else layer.bias
                  for layer, w in zip(layers, weights, strict=True)]  # fmt: skip
        bare = all(layer.bias is None for layer in layers)
        return cls(torch.cat(weights) * scale, None if bare else torch.cat(biases) * scale)

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """x (R, K) -> (R, N). activation: "none" or "swish"."""
        if x.shape[0] < self._few:
            y = F.linear(x, self.weight, self.bias)
            return y if activation == "none" else F.silu(y, inplace=True)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._laid_out(x), self.bias, activation, [], ""
        )
        return product

    def added_to(self, other: Tensor, x: Tensor) -> Tensor:
        """other (R, N) + the product; `other` may be changed."""
        if x.shape[0] < self._few:
            return other.add_(F.linear(x, self.weight, self.bias))
        binary: Any = torch.ops.mkldnn._linear_pointwise.binary
        product: Tensor = binary(x, other, self._laid_out(x), self.bias, "add")
        return product

    def _laid_out(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, max(16, x.shape[0]))
        return self._packed
