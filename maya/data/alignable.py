"""Whether an utterance has frames enough for its text.

CTC emits at most one token a frame and a blank between two equal ones: U tokens with r repeats need U + r of
the S frames that subsampling leaves (Graves et al., "Connectionist temporal classification", ICML 2006).
Transducers may emit several tokens on a frame, but one that must is a sign of a wrong pair, and pruned RNN-T
and greedy decoding bound how many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.data.audio import SAMPLE_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameClock:
    """How many frames reach the losses. hop_samples: of a feature frame, at 16 kHz; subsampling: of the
    encoder; fastest: highest speed an utterance is played at while training."""

    hop_samples: int
    subsampling: int
    fastest: float = 1.0

    def frames(self, num_samples: int) -> int:
        """S of this many samples at the highest speed."""
        return math.ceil(int(num_samples / self.fastest) // self.hop_samples / self.subsampling)

    def frames_of(self, durations: NDArray[np.float64]) -> NDArray[np.int64]:
        """The same of (n,) seconds, each a whole number of samples at 16 kHz."""
        samples = np.rint(durations * SAMPLE_RATE)
        return -((np.floor(samples / self.fastest) // self.hop_samples) // -self.subsampling).astype(np.int64)


def ctc_frames(tokens: Sequence[int]) -> int:
    """Frames that CTC needs for (U,) token ids."""
    return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
