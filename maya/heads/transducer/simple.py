"""The joint network of the simple transducer loss: am + lm, without a hidden layer (Kuang et al. 2022,
arXiv:2206.13236). Its loss, which costs two matrix products, bounds the lattice for the pruned one."""

import torch
from torch import Tensor, nn


class SimpleJoint(nn.Module):
    """Linear layers from frames and from label histories to scores that are only ever added.

    Its weights are icefall's `simple_am_proj` and `simple_lm_proj`, here `am` and `lm`.
    """

    def __init__(self, enc_dim: int, pred_dim: int, vocab_size: int) -> None:
        """`vocab_size` does not count blank."""
        super().__init__()
        self.am = nn.Linear(enc_dim, vocab_size + 1)
        self.lm = nn.Linear(pred_dim, vocab_size + 1)
        for layer in (self.am, self.lm):
            shrink(layer, 0.25)

    def forward(self, enc: Tensor, pred: Tensor) -> tuple[Tensor, Tensor]:
        """enc (B, S, D), pred (B, U+1, Hp) -> am (B, S, V), lm (B, U+1, V), V counting blank."""
        return self.am(enc), self.lm(pred)


@torch.no_grad()
def shrink(layer: nn.Linear, scale: float) -> None:
    """Multiply a fresh weight by `scale`; draw the bias uniformly within a tenth of it, as icefall does."""
    layer.weight.mul_(scale)
    nn.init.uniform_(layer.bias, -0.1 * scale, 0.1 * scale)
