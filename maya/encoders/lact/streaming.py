"""The state of LaCT streams, which does not grow.

A stream remembers, beside what a FastConformer does, the fast weights that it has learnt and their momentum.
They may also go on from one utterance to the next of the same speaker.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from maya.encoders.conformer.streaming import StreamState
from maya.encoders.lact.fast_weights import FastWeightBranch, FastWeightConfig
from maya.errors import MayaError
from maya.kernels.lact import FastWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class LaCTState(StreamState):
    """What B streams remember; `StreamState` says what most of the tensors are.

    chunk: encoder frames of one step of the fast weights, in multiples of which frames are given out.
    fast (K, L, B, H, Dh * D): K of the matrices w0, w1, w2, m0, m1, m2 of L layers, flat: those that change.
    learnt (B,) bool: False where `fast` says nothing yet and the model's own weights stand.
    """

    batch_dim: ClassVar[dict[str, int]] = {"attention": 1, "convolution": 1, "fast": 2}
    learns: ClassVar[bool] = True

    chunk: int
    fast: Tensor
    learnt: Tensor

    @property
    def step(self) -> int:
        """Frames are given out in multiples of this."""
        return self.chunk

    def reset(self, rows: Tensor) -> Self:
        state = StreamState.reset(self, rows)
        fast = state.fast.masked_fill(rows[:, None, None], 0.0)
        return replace(state, fast=fast, learnt=state.learnt & ~rows)

    def next_utterance(self, rows: Tensor, keep: Tensor | bool = True) -> Self:
        """The state with `rows` (B,) bool at the start of another utterance. Those that `keep`, because the
        speaker is the same, forget all but the fast weights and their momentum."""
        kept = rows & keep
        return StreamState.reset(self, kept).reset(rows & ~kept)

    def with_tensors(self, tensors: dict[str, Tensor]) -> Self:
        """This state with what `tensors` gave of another one of the same model, on the device of this one.

        Raises MayaError where a tensor is missing or does not fit.
        """
        own = self.tensors()
        for name, tensor in own.items():
            other = tensors.get(name)
            if other is None or self._fixed_sizes(name, other) != self._fixed_sizes(name, tensor):
                saved = "nothing" if other is None else f"a tensor {tuple(other.shape)}"
                raise MayaError(
                    f"this is no saved state of this encoder: it has {saved} as {name!r}, where one like "
                    f"{tuple(tensor.shape)} belongs"
                )
        loaded: dict[str, Any] = {name: tensors[name].to(tensor.device) for name, tensor in own.items()}
        return replace(self, **loaded)

    def _fixed_sizes(self, name: str, tensor: Tensor) -> list[int]:
        """The sizes of a tensor that the model alone decides: not the streams, nor features that wait."""
        varying = {self.batch_dim.get(name, 0), 1 if name == "features" else -1}
        return [-1 if dim in varying else size for dim, size in enumerate(tensor.shape)]


def changing(cfg: FastWeightConfig) -> tuple[str, ...]:
    """The matrices of the fast weights that learning changes."""
    numbers = "012" if cfg.update_weights == "all" else "1"
    return tuple(kind + number for kind in ("wm" if cfg.momentum else "w") for number in numbers)


def weights_of(branch: FastWeightBranch, fast: Tensor, learnt: Tensor) -> FastWeights:
    """fast (K, B, H, Dh * D) as fast weights, and the model's own on rows that have learnt nothing."""
    start = branch.initial(len(learnt))
    weights: dict[str, Any] = {"w0": start.w0, "w1": start.w1, "w2": start.w2}
    for name, flat in zip(changing(branch.cfg), fast, strict=True):
        own = getattr(start, "w" + name[1])
        own = own if name[0] == "w" else torch.zeros_like(own)
        weights[name] = torch.where(learnt[:, None, None, None], flat.reshape(own.shape), own)
    return FastWeights(**weights)
