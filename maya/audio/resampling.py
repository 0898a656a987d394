"""The one resampler: soxr at its high quality, in preparation, training, decoding and streams."""

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
