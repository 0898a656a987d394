"""The one resampler: soxr at its high quality, in preparation, training, decoding and streams."""

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray


def resample_channels(samples: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """(..., N) at `rate` Hz to (..., ceil(N * new_rate / rate)) at `new_rate` Hz, in float32.

    The pass band is flat to 0.01 dB up to 0.9 of the lower Nyquist frequency; above that frequency 90 dB or
    more are removed (tests/audio/test_resampling.py)."""
    if rate == new_rate:
        return samples
    length = samples.shape[-1]
    new_length = -(-length * new_rate // rate)
    if length == 0:
        return np.zeros((*samples.shape[:-1], 0), np.float32)
    resampled = np.empty((*samples.shape[:-1], new_length), np.float32)
    for row, out in zip(samples.reshape(-1, length), resampled.reshape(-1, new_length), strict=True):
        stream = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
        done = stream.resample_chunk(np.ascontiguousarray(row, np.float32))
        out[: len(done)] = done
        # soxr rounds to the nearest length; with silence behind, the last sample too comes from its filter.
        rest = stream.resample_chunk(np.zeros(-(-rate // new_rate), np.float32), last=True)
        out[len(done) :] = rest[: new_length - len(done)]
    return resampled


class ResamplingStream:
    """`resample_channels` of one channel that comes in pieces: the pieces together give the same samples."""

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate, self.new_rate = rate, new_rate
        self._begin()

    def _begin(self) -> None:
        self._stream: Any = None
        if self.rate != self.new_rate:
            self._stream = soxr.ResampleStream(self.rate, self.new_rate, 1, dtype="float32", quality="HQ")
        self._read = self._written = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) at `rate` -> (m,) at `new_rate`: the samples that are complete now."""
        if self._stream is None or len(samples) == 0:
            return samples
        chunk = np.ascontiguousarray(samples, np.float32)
        resampled: NDArray[np.float32] = self._stream.resample_chunk(chunk)
        self._read += len(samples)
        self._written += len(resampled)
        return resampled

    def finish(self) -> NDArray[np.float32]:
        """The last samples. The stream then begins anew."""
        if self._stream is None or self._read == 0:
            return np.zeros(0, np.float32)
        silence = np.zeros(-(-self.rate // self.new_rate), np.float32)
        rest: NDArray[np.float32] = self._stream.resample_chunk(silence, last=True)
        count = -(-self._read * self.new_rate // self.rate) - self._written
        self._begin()
        return rest[:count]
