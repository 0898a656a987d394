"""One epoch: how often each utterance is drawn and at which speed, the buckets, and the batches in them.

All sizes follow from how many utterances are in which cell, so they are known without looking at a single
utterance; which utterances stand in a bucket, and in what order, is found when its first batch is asked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maya.data.plan.caps import Caps
from maya.data.plan.cells import Cells, log_bins, seconds_bins

# A bucket holds at least so many batches, lest a small corpus repeats its batches in each epoch, unless its
# batches would be smaller than their utterances call for by more than this factor and one batch.
MIN_BATCHES = 4
_MIN_BATCHES_BY_TOKENS = 4 * MIN_BATCHES  # of a duration: with fewer, buckets are not parted by tokens
_MAX_WASTE = 1.25
_STEP_BITS = 4  # 5 % in what tokens add to the share of a batch, or to the cost, part buckets
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly
_WALK, _OFFSETS, _SPEED, _ORDER, _BANDS, DEAL, ROWS = range(7)  # streams of random numbers


class Draws(NamedTuple):
    """m utterances as they are played."""

    rows: NDArray[np.int32]  # (m,) utterance indices
    speeds: NDArray[np.uint8]  # (m,) index of the speed factor
    row_of: NDArray[np.int64] | None = None  # (m,) utterances with the same number are one row of a speaker


class Batches(NamedTuple):
    """m batches: draws first ... last - 1 of the epoch, and their estimated costs, which are those of the
    longest durations and most tokens of their buckets."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    cost: NDArray[np.float64]

    def take(self, which: NDArray[np.int64]) -> "Batches":
        return Batches(self.first[which], self.last[which], self.cost[which])


class Epoch:
    """The draws and batches of epoch number `epoch`, before they are dealt to ranks.

    ratios: (L,) how often an utterance of each language is drawn per epoch, on average.
    bands: (C * speeds,) where, from 0 to the number of duration buckets, each cell lies at each speed.
    """

    def __init__(
        self, epoch: int, cells: Cells, caps: Caps, ratios: NDArray[np.float64],
        bands: NDArray[np.float64], speeds: Sequence[float], seed: int,
    ) -> None:  # fmt: skip
        self.epoch, self._cells, self._seed = epoch, cells, seed
        self._num_langs, self._num_speeds = len(ratios), len(speeds)
        begins, draws = _walked(epoch, cells, ratios)
        self._begins, self._cum_draws = begins.ravel(), np.concatenate([[0], np.cumsum(draws)])
        per_cell = draws.sum(axis=1)
        # One speed after the other is given to the draws of a cell, beginning anywhere.
        self._offsets = self._random(_OFFSETS).integers(len(speeds), size=len(per_cell))
        after = (np.arange(len(speeds)) - self._offsets[:, None]) % len(speeds)
        played = ((per_cell[:, None] - after + len(speeds) - 1) // len(speeds)).ravel()
        seconds = (cells.seconds[:, None] / np.asarray(speeds)).ravel()
        tokens = np.repeat(cells.tokens, len(speeds))
        boundaries, order = self._order(caps, bands, seconds, tokens, played)
        self._members, shapes = _buckets(caps, order, boundaries, seconds, tokens, played)
        self._played = played  # (C * speeds,) draws of each cell at each speed
        self.starts = np.concatenate([[0], np.cumsum([n for n, _, _ in shapes])])
        self.batches = _batches(caps, shapes)
        self._kept: dict[int, Draws] = {}

    def draws(self, first: int, last: int) -> Draws:
        """The draws first ... last - 1."""
        begin = int(np.searchsorted(self.starts, first, side="right")) - 1
        parts = []
        while first < last:
            start, end = int(self.starts[begin]), int(self.starts[begin + 1])
            some = slice(first - start, min(last, end) - start)
            bucket = self._bucket(begin)
            parts.append(Draws(bucket.rows[some], bucket.speeds[some]))
            first, begin = end, begin + 1
        if len(parts) == 1:
            return parts[0]
        return Draws(np.concatenate([f.rows for f in parts]), np.concatenate([f.speeds for f in parts]))

    def _random(self, stream: int, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, self.epoch, stream, number])

    def _order(
        self, caps: Caps, bands: NDArray[np.float64], seconds: NDArray[np.float64],
        tokens: NDArray[np.int64], played: NDArray[np.int64],
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:  # fmt: skip
        """An order of the cells with similar ones side by side, and the places where a bucket may begin."""
        band = np.floor(bands + self._random(_BANDS).random()).astype(np.int64)
        # By how much more than their seconds utterances take of a batch, or cost, for their tokens.
        ratio = caps.room_by_seconds(seconds) / caps.room(seconds, tokens) * caps.token_weight(tokens)
        steps = log_bins(ratio, _STEP_BITS).astype(np.int64)
        loads = np.bincount(band, weights=played / caps.size(seconds, tokens))
        steps[(loads < _MIN_BATCHES_BY_TOKENS)[band]] = 0
        there_and_back = np.where(band % 2 == 0, steps, -steps)
        order = np.lexsort((seconds_bins(seconds), there_and_back, band))
        order = order[played[order] > 0]
        boundaries = np.ones(len(order), bool)
        boundaries[1:] = (np.diff(band[order]) != 0) | (np.diff(steps[order]) != 0)
        return boundaries, order

    def _bucket(self, number: int) -> Draws:
        if number not in self._kept:
            members = self._members[number]
            counts = self._played[members]
            member = np.repeat(members, counts)
            turn = np.arange(len(member)) - np.repeat(np.cumsum(counts) - counts, counts)
            cell, speed = np.divmod(member, self._num_speeds)
            # Draws of the epoch in the order of cells and languages; every `num_speeds`-th has this speed.
            first = self._cum_draws[cell * self._num_langs] + (speed - self._offsets[cell]) % self._num_speeds
            draw = first + turn * self._num_speeds
            lot = np.searchsorted(self._cum_draws, draw, side="right") - 1  # cell and language
            place = (self._begins[lot] + draw - self._cum_draws[lot]) % self._cells.counts.ravel()[lot]
            rows = self._cells.rows[self._cells.starts[lot] + place]
            order = self._random(_ORDER, number).permutation(len(rows))
            self._kept[number] = Draws(rows[order], speed[order].astype(np.uint8))
        return self._kept[number]


def _walked(
    epoch: int, cells: Cells, ratios: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(C, L) draws before this epoch, and in it. Rounding differs from cell to cell, so that it evens out."""
    phases = (np.arange(cells.counts.size) * _GOLDEN % 1.0).reshape(cells.counts.shape)
    before, after = (
        np.floor(e * ratios * cells.counts + phases).astype(np.int64) for e in (epoch, epoch + 1)
    )
    return before, after - before


_Shape = tuple[int, float, int]  # draws, longest duration, most tokens of a bucket


def _buckets(
    caps: Caps, order: NDArray[np.int64], boundaries: NDArray[np.bool_], seconds: NDArray[np.float64],
    tokens: NDArray[np.int64], played: NDArray[np.int64],
) -> tuple[list[NDArray[np.int64]], list[_Shape]]:  # fmt: skip
    """Divide the ordered cells into buckets: their cells and their shapes."""
    loads = (played / caps.size(seconds, tokens))[order].tolist()  # in batches
    columns = (
        boundaries.tolist(),
        seconds[order].tolist(),
        tokens[order].tolist(),
        played[order].tolist(),
        loads,
    )
    begins: list[int] = []
    shapes: list[_Shape] = []
    count, longest, most, load = 0, 0.0, 0, 0.0
    for place, (boundary, duration, u, n, own) in enumerate(zip(*columns, strict=True)):
        new_longest, new_most = max(longest, duration), max(most, u)
        full = bool(boundary) and load >= MIN_BATCHES
        if count and not full and (new_longest > longest or new_most > most):
            together = (count + n) / int(caps.size(new_longest, new_most))
            full = together > _MAX_WASTE * (load + own) + 1
        if full or not count:
            if count:
                shapes.append((count, longest, most))
            begins.append(place)
            count, longest, most, load = 0, 0.0, 0, 0.0
            new_longest, new_most = duration, u
        count, longest, most, load = count + n, new_longest, new_most, load + own
    shapes.append((count, longest, most))
    return np.split(order, begins[1:]), shapes


def _batches(caps: Caps, shapes: Sequence[_Shape]) -> Batches:
    """Full batches through all buckets; the rest of a bucket begins the first batch of the next."""
    sizes: list[NDArray[np.int64]] = []
    costs: list[NDArray[np.float64]] = []

    def add(number: int, size: int, longest: float, most: int) -> None:
        sizes.append(np.full(number, size))
        costs.append(np.full(number, float(caps.cost(size, longest, most))))

    pending, pending_longest, pending_most = 0, 0.0, 0
    for count, longest, most in shapes:
        if pending:
            together = max(pending_longest, longest), max(pending_most, most)
            taken = min(count, max(0, int(caps.size(*together)) - pending))
            if taken == count and pending + taken < int(caps.size(*together)):
                pending, (pending_longest, pending_most) = pending + taken, together
                continue
            add(1, pending + taken, *(together if taken else (pending_longest, pending_most)))
            count -= taken
        size = int(caps.size(longest, most))
        add(count // size, size, longest, most)
        pending, pending_longest, pending_most = count % size, longest, most
    if pending:
        add(1, pending, pending_longest, pending_most)
    ends = np.cumsum(np.concatenate(sizes))
    return Batches(np.concatenate([[0], ends[:-1]]), ends, np.concatenate(costs))
