"""The 95 % bootstrap interval of any measure that is a function of sums over utterances."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from maya.score.wer import REPLICATES, Interval

_INDICES_AT_ONCE = 4_000_000
Sums = NDArray[np.float64]


def of_sums(
    rows: Sums, measure: Callable[[Sums], NDArray[np.float64]], *, blocks: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES, seed: int = 0,
) -> tuple[float, Interval]:  # fmt: skip
    """The measure of all utterances, and its interval, NaN where there are fewer than two to draw.

    rows: (n, k), what each utterance adds to k sums. measure: (r, k) sums → (r,) values. blocks: a label for
    each utterance, such as its speaker; utterances with one label are drawn together.
    """
    rows = np.asarray(rows, np.float64)
    if blocks is not None:
        index: dict[Hashable, int] = {}
        which = np.array([index.setdefault(block, len(index)) for block in blocks], np.int64)
        summed = np.zeros((len(index), rows.shape[1]))
        np.add.at(summed, which, rows)
        rows = summed
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(measure(rows.sum(0, keepdims=True))[0])
        if len(rows) < 2:
            return value, Interval(low=float("nan"), high=float("nan"))
        rng, drawn = np.random.default_rng(seed), []
        step = max(1, _INDICES_AT_ONCE // len(rows))
        for start in range(0, replicates, step):
            # How often each row is drawn: a product then gives the sums.
            size = min(step, replicates - start)
            counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=size)
            drawn.append(measure(counts.astype(np.float64) @ rows))
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5])
    return value, Interval(low=float(low), high=float(high))
