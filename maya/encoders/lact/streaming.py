"""The state of LaCT streams, of fixed size.

It is FastConformer's state with the learned fast weights and their momentum. These can be kept for the next
utterance of the same speaker.
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
    """The state of B streams; `StreamState` explains the other tensors.

    chunk: encoder frames of one step of the fast weights; frames are returned in multiples of it.
    fast (K, L, B, H, Dh * D): the K of the matrices w0, w1, w2, m0, m1, m2 that learning changes, flat, of L
        layers.
    learnt (B,) bool: False on rows that still have the model's own weights; `fast` is not used there.
    """

    batch_dim: ClassVar[dict[str, int]] = {"attention": 1, "convolution": 1, "fast": 2}
    learns: ClassVar[bool] = True

    chunk: int
    fast: Tensor
    learnt: Tensor

    @property
    def step(self) -> int:
        """Frames are returned in multiples of this."""
        return self.chunk

    def reset(self, rows: Tensor) -> Self:
        state = StreamState.reset(self, rows)
        fast = state.fast.masked_fill(rows[:, None, None], 0.0)
        return replace(state, fast=fast, learnt=state.learnt & ~rows)

    def next_utterance(self, rows: Tensor, keep: Tensor | bool = True) -> Self:
        """The state with `rows` (B,) bool at the start of another utterance. Rows that `keep` (the speaker is
        the same) keep the fast weights and their momentum."""
        kept = rows & keep
        return StreamState.reset(self, kept).reset(rows & ~kept)

    def with_tensors(self, tensors: dict[str, Tensor]) -> Self:
        """This state with the saved `tensors` of another state of the same model, on this state's device.
        Raises MayaError for a tensor that is missing or does not fit."""
        own = self.tensors()
        for name, tensor in own.items():
            other = tensors.get(name)
            if other is None or self._fixed_sizes(name, other) != self._fixed_sizes(name, tensor):
                saved = "nothing" if other is None else f"a tensor {tuple(other.shape)}"
                raise MayaError(
                    f"this is not a saved state of this encoder: {name!r} is {saved}; expected one like "
                    f"{tuple(tensor.shape)}"
                )
        loaded: dict[str, Any] = {name: tensors[name].to(tensor.device) for name, tensor in own.items()}
        return replace(self, **loaded)

    def _fixed_sizes(self, name: str, tensor: Tensor) -> list[int]:
        """The sizes that the model decides; -1 for the number of streams and of waiting features."""
        varying = {self.batch_dim.get(name, 0), 1 if name == "features" else -1}
        return [-1 if dim in varying else size for dim, size in enumerate(tensor.shape)]


def changing(cfg: FastWeightConfig) -> tuple[str, ...]:
    """Names of the matrices that learning changes."""
    numbers = "012" if cfg.update_weights == "all" else "1"
    return tuple(kind + number for kind in ("wm" if cfg.momentum else "w") for number in numbers)


def weights_of(branch: FastWeightBranch, fast: Tensor, learnt: Tensor) -> FastWeights:
    """fast (K, B, H, Dh * D) as fast weights; rows that have not `learnt` get the model's own."""
    start = branch.initial(len(learnt))
    weights: dict[str, Any] = {"w0": start.w0, "w1": start.w1, "w2": start.w2}
    for name, flat in zip(changing(branch.cfg), fast, strict=True):
        own = getattr(start, "w" + name[1])
        own = own if name[0] == "w" else torch.zeros_like(own)
        weights[name] = torch.where(learnt[:, None, None, None], flat.reshape(own.shape), own)
    return FastWeights(**weights)
