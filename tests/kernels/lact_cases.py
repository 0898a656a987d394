"""Inputs of the LaCT operator for tests, and one call of it on any backend."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from maya.kernels.lact import FastWeights, Span, chunk_causal, initial, lact, passes, strictly_causal, whole

ORDERS = {
    "whole": whole,
    "passes": lambda length: passes(length, 3, times=2),
    "chunk causal": lambda length: chunk_causal(length, 3),
    "strictly causal": lambda length: strictly_causal(length, 3),
}


@dataclass
class Problem:
    """Leaves by name, learned weights without a batch; options of `lact`."""

    leaves: dict[str, Tensor]
    lens: Tensor | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.leaves["q"].shape[0]

    @property
    def length(self) -> int:
        return self.leaves["q"].shape[1]

    def weights(self) -> FastWeights:
        start = initial(self.leaves["w0"], self.leaves["w1"], self.leaves["w2"], self.batch)
        return start._replace(**{name: x for name, x in self.leaves.items() if name in ("m0", "m1", "m2")})

    def run(self, plan: list[Span], backend: str, lens: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        optional = {name: self.leaves.get(name) for name in ("momentum_gate", "step_scale")}
        return lact(
            *(self.leaves[name] for name in ("q", "k", "v", "rates")), self.weights(), plan,
            lens=self.lens if lens is None else lens, backend=backend, **optional, **self.options,
        )  # fmt: skip

    def gradients(
        self, plan: list[Span], backend: str, used: slice = slice(None)
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Output and state; gradients of a fixed weighted sum of those of them that are used."""
        for x in self.leaves.values():
            x.requires_grad_()
            x.grad = None
        out, state = self.run(plan, backend)
        outputs = [out, *(x for x in state if x is not None)]
        make = torch.Generator(out.device).manual_seed(1)
        total = sum(
            (x * torch.randn(x.shape, generator=make, dtype=torch.float64, device=x.device).to(x.dtype)).sum()
            for x in outputs[used]
        )
        assert isinstance(total, Tensor)
        total.backward()
        grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in self.leaves.items()}
        return [x.detach() for x in outputs], grads

    def to(self, dtype: torch.dtype, state: torch.dtype, device: str = "cpu") -> "Problem":
        """Frames in `dtype`, the rest in `state`."""
        kinds = {name: dtype if name in ("q", "k", "v") else state for name in self.leaves}
        moved = {name: x.detach().to(device, kinds[name], copy=True) for name, x in self.leaves.items()}
        return Problem(moved, None if self.lens is None else self.lens.to(device), self.options)


def problem(
    batch: int = 2,
    length: int = 7,
    heads: int = 2,
    channels: int = 4,
    hidden: int = 5,
    *,
    lens: list[int] | None = None,
    momentum: bool = False,
    scaled: bool = False,
    **options: str,
) -> Problem:
    """fp64, weights and rates of the size they have in use; q, k with norm 1."""
    frames = (batch, length, heads)
    q, k, v = (torch.randn(*frames, channels, dtype=torch.float64) for _ in range(3))
    leaves = {
        "q": q / q.norm(dim=-1, keepdim=True),
        "k": k / k.norm(dim=-1, keepdim=True),
        "v": v,
        "rates": torch.rand(*frames, 3, dtype=torch.float64),
        "w0": torch.randn(heads, hidden, channels, dtype=torch.float64) / channels**0.5,
        "w1": torch.randn(heads, channels, hidden, dtype=torch.float64) / hidden**0.5,
        "w2": torch.randn(heads, hidden, channels, dtype=torch.float64) / channels**0.5,
    }
    if momentum:
        leaves["momentum_gate"] = torch.rand(frames, dtype=torch.float64)
        moving = ("w1",) if options.get("update_weights") == "w1" else ("w0", "w1", "w2")
        leaves |= {f"m{w[1]}": torch.randn(batch, *leaves[w].shape, dtype=torch.float64) / 10 for w in moving}
    if scaled:
        leaves["step_scale"] = 0.5 + torch.rand(heads, dtype=torch.float64)
    return Problem(leaves, None if lens is None else torch.tensor(lens), dict(options))
