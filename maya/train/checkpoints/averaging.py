"""The running mean of the weights, in fp64, and the mean over any stretch of training from two of them.

As in icefall, each checkpoint carries the mean over all steps so far; the mean over (a, b] follows from
the two ends: (n_b·mean_b - n_a·mean_a) / (n_b - n_a). In fp64 the difference keeps about ten digits: of a
mean over the last 1 % of the samples twelve. (icefall's saving turns its fp64 mean into fp32, which leaves
five.)
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from maya.errors import MayaError


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

    `template` is the state dict at the end. Its floating-point entries are replaced by their means, in its
    dtypes: parameters, and the running statistics of BatchNorm with them (as in icefall: a mean of the
    statistics the averaged weights saw). Its integer entries, such as BatchNorm's count of batches, are
    kept. Raises MayaError where nothing lies between the two, or where they are of different models.
    """
    if start is None:
        start = RunningAverage()
    first = start.count
    if end.count <= first:
        raise MayaError(
            f"nothing was averaged between sample {first} and sample {end.count} of the weights; choose a "
            "stretch of at least train.average_every steps, and train.average_every above 0"
        )
    out = {}
    for name, value in template.items():
        if not value.is_floating_point():
            out[name] = value
            continue
        for average in (end, start) if first else (end,):
            if name not in average.mean or average.mean[name].shape != value.shape:
                actual = tuple(average.mean[name].shape) if name in average.mean else "missing"
                raise MayaError(
                    f"the average over {average.count} samples is of another model: {name} is {actual} in "
                    f"it and {tuple(value.shape)} in the weights; average checkpoints of one run"
                )
        total = end.mean[name] * end.count
        if first:
            total -= start.mean[name] * first
        out[name] = (total / (end.count - first)).to(value.dtype)
    return out
