"""Whether an utterance has enough frames for its text.

CTC emits at most one token a frame and a blank between two equal ones: U tokens with r repeats need U + r of
the S frames that subsampling leaves (Graves et al., "Connectionist temporal classification", ICML 2006).
Transducers may emit several tokens on a frame, but one that must is a sign of a wrong pair, and pruned RNN-T
and greedy decoding bound how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-3  # of a sample, by which a duration in seconds may be off


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameClock:
    """The number of frames that reach the losses: N samples have T = (N + extra_samples) // hop_samples
    feature frames, and these ceil((T - lost_frames) / subsampling) encoder frames, at least 0, and none
    without features.

    sample_rate: of the model's features, Hz. hop_samples: of a feature frame; extra_samples: half a hop where
    hops are rounded, not cut off. subsampling: of the encoder; lost_frames: features that it needs before the
    first frame, below 0 where padding adds some. fastest: highest speed an utterance is played at in
    training.
    """

    sample_rate: int
    hop_samples: int
    subsampling: int
    fastest: float = 1.0
    extra_samples: int = 0
    lost_frames: int = 0

    def frames(self, num_samples: int) -> int:
        """S of this many samples at the highest speed."""
        return int(self._frames(np.array([num_samples]))[0])

    def frames_of(self, durations: NDArray[np.float64]) -> NDArray[np.int64]:
        """The same of (n,) seconds, at whatever rate they are stored."""
        # As many samples as `maya.audio.load.resample` gives.
        return self._frames(np.ceil(durations * self.sample_rate - _ROUNDING))

    @property
    def frame_seconds(self) -> float:
        """Seconds of an encoder frame."""
        return self.hop_samples * self.subsampling / self.sample_rate

    def _frames(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        played = np.floor(samples / self.fastest)
        features = (played + self.extra_samples) // self.hop_samples
        frames = -((features - self.lost_frames) // -self.subsampling)
        return np.where((samples > 0) & (features > 0), np.maximum(frames, 0), 0).astype(np.int64)


def ctc_frames(tokens: Sequence[int]) -> int:
    """Frames that CTC needs for (U,) token ids."""
    return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
