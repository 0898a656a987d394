"""The audio of the open segment of a session, for models that read it when it ends."""

import torch
from torch import Tensor

_MARGIN_SECONDS = 0.5  # of audio before the first and after the last word


class SegmentAudio:
    """Keeps the samples since some time before the segment's first token."""

    def __init__(self, rate: int) -> None:
        self.rate, self.first, self.size = rate, 0, 0  # the first sample that is kept, samples that are kept
        self.blocks: list[Tensor] = []

    def push(self, samples: Tensor, has_text: bool) -> None:
        """The next samples (n,). has_text: whether the segment has begun. Before, a second and more is kept:
        a token may come later than its sound."""
        self.blocks.append(samples)
        self.size += len(samples)
        if not has_text:
            self._forget(self.first + self.size - 4 * self.rate)

    def part(self, start: float, end: float) -> tuple[Tensor, float]:
        """The samples (n,) from `start` to `end`, in seconds of the session, with a margin, and the second of
        the first of them. What lies before `end` is then forgotten, but for the margin of what follows."""
        begin = max(self.first, int((start - _MARGIN_SECONDS) * self.rate))
        stop = min(self.first + self.size, int((end + _MARGIN_SECONDS) * self.rate))
        own = torch.cat(self.blocks)[begin - self.first : max(begin, stop) - self.first]
        self._forget(int((end - _MARGIN_SECONDS) * self.rate))
        return own, begin / self.rate

    def _forget(self, sample: int) -> None:
        """Forget blocks that end before a sample."""
        while self.blocks and self.first + len(self.blocks[0]) <= sample:
            size = len(self.blocks.pop(0))
            self.first, self.size = self.first + size, self.size - size
