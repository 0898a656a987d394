"""Decoded audio kept in memory from epoch to epoch."""

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor


class AudioCache:
    """Decoded audio of the first utterances that fit, in memory that forked workers share.

    The memory is an anonymous shared mapping, which the system fills in as it is written to and which is
    not limited by the size of /dev/shm. Two workers may decode the same utterance at once; both write the
    same samples.

    durations: (n,) seconds of the utterances, which are kept at `sample_rate` Hz.
    """

    def __init__(self, durations: np.ndarray, gigabytes: float, *, sample_rate: int) -> None:
        # One spare sample each: a duration in decimal seconds may round to a sample less.
        room = np.ceil(durations * sample_rate).astype(np.int64) + 1
        ends = np.cumsum(room)
        self._count = int(np.searchsorted(ends, gigabytes * 1e9 / 4, side="right"))
        self._starts = (ends - room)[: self._count]
        self._room = room[: self._count]
        if self._count:
            self._samples = np.frombuffer(mmap.mmap(-1, int(ends[self._count - 1]) * 4), dtype=np.float32)
            # 0 until the samples are there, then their number
            self._lengths = np.frombuffer(mmap.mmap(-1, self._count * 8), dtype=np.int64)

    def __len__(self) -> int:
        """Number of utterances that fit."""
        return self._count

    def get(self, index: int) -> Tensor | None:
        """(N,) samples of an utterance, None if they are not kept."""
        if index >= self._count or self._lengths[index] == 0:
            return None
        start = self._starts[index]
        return torch.from_numpy(self._samples[start : start + self._lengths[index]])

    def put(self, index: int, audio: Tensor) -> None:
        if index < self._count and 0 < len(audio) <= self._room[index]:
            start = self._starts[index]
            self._samples[start : start + len(audio)] = audio.numpy()
            self._lengths[index] = len(audio)

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker cannot share the memory and keeps nothing."""
        return {"_count": 0}
