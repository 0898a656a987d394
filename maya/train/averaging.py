"""The running mean of the weights, in fp64, and the mean over any stretch of training from two of them.

As in icefall, each checkpoint carries the mean over all steps so far; the mean over (a, b] follows from
the two ends: (n_b·mean_b - n_a·mean_a) / (n_b - n_a). In fp64 the difference keeps about ten digits.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class RunningAverage:
    """Mean of the floating-point entries of a state dict over `count` samples, fp64 on the CPU."""

    count: int = 0
    mean: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, state: dict[str, Tensor]) -> None:
        self.count += 1
        for name, value in state.items():
            if not value.is_floating_point():
                continue
            value = value.detach().to("cpu", torch.float64)
            if name in self.mean:
                self.mean[name].lerp_(value, 1 / self.count)
            else:
                self.mean[name] = value.clone()

    def state_dict(self) -> dict:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict) -> None:
        self.count, self.mean = int(state["count"]), dict(state["mean"])


def average_between(
    start: RunningAverage | None, end: RunningAverage, template: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The mean weights over the samples after `start` (None: from the first) up to `end`.

    `template` is the state dict at the end: its integer entries and dtypes are kept.
    """
    first = start.count if start else 0
    if end.count <= first:
        raise ValueError(f"nothing was averaged between sample {first} and sample {end.count}")
    out = {}
    for name, value in template.items():
        if name not in end.mean:
            out[name] = value
            continue
        total = end.mean[name] * end.count
        if start:
            total = total - start.mean[name] * first
        out[name] = (total / (end.count - first)).to(value.dtype)
    return out
