"""The number of utterances of a size that fit into a batch, and the cost of a batch."""

from math import inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maya.data.plan.config import PlanConfig

# Durations are decimal fractions kept as float32: 10 x 2.1 s may exceed 21 s by less than this share.
_SLACK = 1e-6
_FRAME_SLACK = 1e-4
_LEAST_ROOM = 1e-3  # of memory that does not even hold the model; a share of a batch has to be positive


class Caps:
    """The caps of a plan. `seconds` and `tokens` are those of the longest of a batch; numbers or arrays."""

    def __init__(self, cfg: PlanConfig) -> None:
        self.cfg = cfg
        self._by_memory = cfg.memory.max_bytes is not None
        self._count_tokens = cfg.max_tokens is not None or cfg.max_lattice is not None or self._by_memory
        self.by_tokens = self._count_tokens or cfg.cost.lattice > 0  # whether tokens matter at all
        self._seconds, self._utterances, self._tokens, self._lattice = (
            inf if cap is None else float(cap)
            for cap in (cfg.max_seconds, cfg.max_utterances, cfg.max_tokens, cfg.max_lattice)
        )

    def frames(self, seconds: ArrayLike) -> Any:
        """Encoder frames."""
        return np.ceil(np.asarray(seconds, np.float64) / self.cfg.frame_seconds - _FRAME_SLACK)

    def room_by_seconds(self, seconds: ArrayLike) -> Any:
        """Utterances, a real number, that the caps on seconds and utterances allow."""
        by_seconds = self._seconds * (1 + _SLACK) / np.asarray(seconds, np.float64)
        return np.minimum(by_seconds, self._utterances)

    def room(self, seconds: ArrayLike, tokens: ArrayLike) -> Any:
        """Utterances, a real number, that all caps allow; below 1 if one alone exceeds a cap."""
        room = self.room_by_seconds(seconds)
        if self._count_tokens:
            u = np.asarray(tokens, np.float64)
            room = np.minimum(room, self._tokens / np.maximum(u, 1))
            room = np.minimum(room, self._lattice / (self.frames(seconds) * (u + 1)))
        if self._by_memory:
            room = np.minimum(room, np.maximum(self.memory_room(seconds, tokens), _LEAST_ROOM))
        return room

    def memory_room(self, seconds: ArrayLike, tokens: ArrayLike) -> Any:
        """Utterances, a real number, that the memory has room for; below 1 where not one fits."""
        return self.cfg.memory.room(self.frames(seconds), np.asarray(tokens, np.float64))

    def size(self, seconds: ArrayLike, tokens: ArrayLike) -> NDArray[np.int64]:
        """Utterances of a full batch, at least 1."""
        return np.maximum(1, np.floor(self.room(seconds, tokens))).astype(np.int64)

    def cost(self, sizes: ArrayLike, seconds: ArrayLike, tokens: ArrayLike) -> NDArray[np.float64]:
        """Estimated cost of batches of these sizes, in encoder frames; see CostConfig."""
        cost, s = self.cfg.cost, self.frames(seconds)
        frames = np.asarray(sizes, np.float64) * s
        return cost.fixed + frames * (s / cost.attention_frames + self.token_weight(tokens))

    def token_weight(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Cost of a frame, with its lattice nodes and without attention."""
        return 1 + self.cfg.cost.lattice * (np.asarray(tokens, np.float64) + 1)
