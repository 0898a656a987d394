"""The one resampler: soxr at its high quality, in preparation, training, decoding and streams."""

import numpy as np
import soxr
from numpy.typing import NDArray


def resample_channels(samples: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """(..., N) at `rate` Hz to (..., ceil(N * new_rate / rate)) at `new_rate` Hz, in float32.

    The pass band reaches 0.91 of the lower Nyquist frequency; above that frequency 100 dB are removed."""
    if rate == new_rate:
        return samples
    length = samples.shape[-1]
    new_length = -(-length * new_rate // rate)
    if length == 0:
        return np.zeros((*samples.shape[:-1], 0), np.float32)
    # soxr rounds to the nearest length: with a little silence behind, the last sample comes from its filter.
    padded = np.zeros((*samples.shape[:-1], length + -(-rate // new_rate)), np.float32)
    padded[..., :length] = samples
    rows = [
        soxr.resample(row, rate, new_rate, quality="HQ")[:new_length]
        for row in padded.reshape(-1, padded.shape[-1])
    ]
    return np.stack(rows).reshape(*samples.shape[:-1], new_length)
