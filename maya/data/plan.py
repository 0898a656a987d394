"""Which utterances make up which batch, for every epoch and every rank, without touching the data.

An epoch is planned in one go, from (seed, epoch) alone, by every rank for itself:

1. Draw. With temperature 1 each utterance is taken once. With another, language l gets a share of the
   hours proportional to hours_l^temperature (Conneau et al. 2020, XLM-R, section 3.1), the total staying as
   it is. Each language walks through its utterances in a new random order each time around and goes on in
   the next epoch where it stopped, so over the training all its utterances are seen equally often, give or
   take one.
2. Speed. Each drawn utterance gets its speed factor, so that the caps hold for the audio as it will be.
3. Order by length, blurred: an utterance's place is its rank by duration (counted in hours, 0 to 1) plus a
   random shift of up to 1/num_buckets. This is bucketing with buckets that slide: neighbours have about
   equal durations, and yet every epoch has other batches.
4. Cut into batches, each as long as the caps allow.
5. Deal: `world_size` consecutive batches, of nearly equal cost, form a step; steps are shuffled.

Step n of an epoch is an array slice, so resuming is a seek.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maya.config import config
from maya.errors import MayaError

# A window of the blurred order spans at least so many batches, lest a small corpus repeats its batches.
_MIN_BATCHES_IN_WINDOW = 4


@config
class PlanConfig:
    """Caps are per batch, that is per rank and step.

    max_seconds: utterances times the longest of them, after the change of speed. An utterance that only
        its speed brings over the cap is a batch of its own.
    max_utterances: number of utterances.
    max_lattice: utterances times encoder frames (frame_seconds each) times (tokens + 1), None for no cap.
        It bounds the memory of a transducer's joint network where durations alone do not. An utterance
        that exceeds it alone is a batch of its own.
    num_buckets: how finely utterances are sorted by duration; more is less padding and less shuffling.
    temperature: see above; 1 is natural, 0 gives all languages the same hours.
    too_long: what to do with an utterance longer than max_seconds: refuse, or make it a batch of its own.
    """

    max_seconds: float = 200.0
    max_utterances: int = 256
    max_lattice: int | None = None
    frame_seconds: float = 0.08
    num_buckets: int = 30
    temperature: float = 1.0
    too_long: Literal["error", "alone"] = "error"
    seed: int = 0


class Position(NamedTuple):
    """The next batch to be trained on: number `batch` of epoch `epoch`, both from 0."""

    epoch: int
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanStats:
    """One epoch over all ranks. `hours` is audio after the change of speed, per language index;
    `efficiency` is audio over padded audio; the three `max_` are the largest over single batches."""

    steps: int
    batches: int
    utterances: int
    repeated_batches: int
    seconds: float
    padded_seconds: float
    efficiency: float
    max_padded_seconds: float
    max_lattice: int
    max_utterances: int
    hours: dict[int, float]


@dataclass(frozen=True, slots=True)
class _Epoch:
    items: NDArray[np.int64]  # (m,) utterance index of each draw, in blurred order of duration
    speeds: NDArray[np.float64]  # (m,)
    bounds: NDArray[np.int64]  # (batches, 2) first and past-last draw of each batch
    steps: NDArray[np.int64]  # (steps, world_size) batch taken by each rank
    repeated: int


class BatchPlan:
    """The batches of one rank.

    durations: (n,) seconds; token_counts: (n,); langs: (n,) language indices; ids: (n,) names for messages.
    speeds: factors from which one is drawn for each utterance of an epoch, such as (0.9, 1.0, 1.1).
    Raises MayaError for an empty set or, with too_long="error", an utterance longer than max_seconds.
    Safe to use from several threads. One epoch of 10^6 utterances takes about 1.5 s to plan.
    """

    def __init__(
        self,
        durations: ArrayLike,
        token_counts: ArrayLike,
        langs: ArrayLike,
        cfg: PlanConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        speeds: Sequence[float] = (1.0,),
        ids: Sequence[str] | None = None,
    ) -> None:
        self.durations = np.asarray(durations, dtype=np.float64)
        self.token_counts = np.asarray(token_counts, dtype=np.int64)
        self.langs = np.asarray(langs, dtype=np.int64)
        self.cfg, self.rank, self.world_size = cfg, rank, world_size
        self.speeds, self.ids = tuple(speeds), ids
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below world_size {world_size}")
        if not len(self.durations) == len(self.token_counts) == len(self.langs):
            raise ValueError("durations, token_counts and langs differ in length")
        self._check()
        self._epochs: dict[int, _Epoch] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of utterances in the data."""
        return len(self.durations)

    def with_speeds(self, speeds: Sequence[float]) -> "BatchPlan":
        """The plan of the same data when utterances are played at these speeds."""
        return BatchPlan(
            self.durations, self.token_counts, self.langs, self.cfg,
            rank=self.rank, world_size=self.world_size, speeds=speeds, ids=self.ids,
        )  # fmt: skip

    def num_batches(self, epoch: int) -> int:
        """Batches of this rank in this epoch; the same for all ranks."""
        return len(self._planned(epoch).steps)

    def batch(self, epoch: int, index: int) -> list[int]:
        """Utterance indices of this rank's batch number `index` of the epoch."""
        planned = self._planned(epoch)
        first, last = planned.bounds[planned.steps[index, self.rank]]
        return planned.items[first:last].tolist()

    def batch_speeds(self, epoch: int, index: int) -> list[float]:
        """Speed factor of each utterance of `batch(epoch, index)`."""
        planned = self._planned(epoch)
        first, last = planned.bounds[planned.steps[index, self.rank]]
        return planned.speeds[first:last].tolist()

    def epoch(self, epoch: int) -> list[list[int]]:
        """All batches of this rank in the epoch, in order."""
        return [self.batch(epoch, index) for index in range(self.num_batches(epoch))]

    def advance(self, position: Position) -> Position:
        """The position after one more batch."""
        epoch, batch = position
        return Position(epoch, batch + 1) if batch + 1 < self.num_batches(epoch) else Position(epoch + 1, 0)

    def stats(self, epoch: int) -> PlanStats:
        """Size, padding and language shares of an epoch over all ranks."""
        planned = self._planned(epoch)
        seconds = self.durations[planned.items] / planned.speeds
        tokens = self.token_counts[planned.items]
        dealt = planned.bounds[planned.steps.ravel()]  # repeated batches count as often as they occur
        sizes = dealt[:, 1] - dealt[:, 0]
        longest = np.array([seconds[a:b].max() for a, b in dealt])
        most_tokens = np.array([tokens[a:b].max() for a, b in dealt])
        drawn = np.concatenate([np.arange(a, b) for a, b in dealt])
        frames = np.ceil(longest / self.cfg.frame_seconds).astype(np.int64)
        langs = self.langs[planned.items[drawn]]
        total, padded = float(seconds[drawn].sum()), float((sizes * longest).sum())
        return PlanStats(
            steps=len(planned.steps),
            batches=len(dealt),
            utterances=int(sizes.sum()),
            repeated_batches=planned.repeated,
            seconds=total,
            padded_seconds=padded,
            efficiency=total / padded,
            max_padded_seconds=float((sizes * longest).max()),
            max_lattice=int((sizes * frames * (most_tokens + 1)).max()),
            max_utterances=int(sizes.max()),
            hours={int(k): float(seconds[drawn][langs == k].sum()) / 3600 for k in np.unique(langs)},
        )

    def _check(self) -> None:
        cfg, ids = self.cfg, self.ids
        if len(self) == 0:
            raise MayaError("there is no utterance to plan batches for")
        if cfg.max_seconds <= 0 or cfg.max_utterances < 1 or cfg.num_buckets < 1:
            raise MayaError("the plan's max_seconds, max_utterances and num_buckets must be positive")
        if not self.speeds or min(self.speeds) <= 0:
            raise MayaError(f"speed factors must be positive, not {self.speeds}")
        if not (np.isfinite(self.durations).all() and self.durations.min() > 0):
            raise MayaError("every utterance needs a duration above zero; prepare the data again")
        longest = int(self.durations.argmax())
        if cfg.too_long == "error" and self.durations[longest] > cfg.max_seconds:
            name = f"utterance {ids[longest]!r}" if ids is not None else f"utterance number {longest}"
            raise MayaError(
                f"{name} is {self.durations[longest]:.1f} s long, more than the plan's "
                f"max_seconds={cfg.max_seconds:g}; raise max_seconds, prepare the data with a shorter limit, "
                'or set too_long="alone"'
            )

    def _planned(self, epoch: int) -> _Epoch:
        with self._lock:
            if epoch not in self._epochs:
                while len(self._epochs) > 1:  # a prefetching reader is at most one epoch ahead
                    del self._epochs[min(self._epochs)]
                self._epochs[epoch] = self._make(epoch)
            return self._epochs[epoch]

    def _make(self, epoch: int) -> _Epoch:
        cfg = self.cfg
        rng = np.random.default_rng([cfg.seed, epoch])
        items = self._draw(epoch)
        speeds = rng.choice(self.speeds, len(items))
        seconds = self.durations[items] / speeds
        order = _blurred_order(seconds, self._windows(seconds.sum()), rng)
        items, speeds, seconds = items[order], speeds[order], seconds[order]
        bounds = _cut(seconds.tolist(), self.token_counts[items].tolist(), cfg)
        repeated = _fill(bounds, self.world_size)
        steps = np.arange(len(bounds)).reshape(-1, self.world_size)
        # Durations grow within a step; turning it gives no rank always the shortest.
        turn = (np.arange(self.world_size) + np.arange(len(steps))[:, None]) % self.world_size
        steps = np.take_along_axis(steps, turn, axis=1)[rng.permutation(len(steps))]
        return _Epoch(items, speeds, np.array(bounds, dtype=np.int64), steps, repeated)

    def _windows(self, total_seconds: float) -> int:
        most = total_seconds / self.cfg.max_seconds / _MIN_BATCHES_IN_WINDOW
        return max(1, min(self.cfg.num_buckets, int(most)))

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        """Utterance indices of an epoch, in no particular order."""
        if self.cfg.temperature == 1.0:
            return np.arange(len(self))
        codes, inverse = np.unique(self.langs, return_inverse=True)
        hours = np.bincount(inverse, weights=self.durations)
        weight = (hours / hours.max()) ** self.cfg.temperature
        wanted = hours.sum() * weight / weight.sum()
        drawn = []
        for place in range(len(codes)):
            members = np.flatnonzero(inverse == place)
            count = max(1, round(len(members) * wanted[place] / hours[place]))
            drawn.append(members[self._walk(len(members), epoch * count, count, place)])
        return np.concatenate(drawn)

    def _walk(self, n: int, start: int, count: int, stream: int) -> NDArray[np.int64]:
        """Places start ... start + count of an endless row of random orders of 0 ... n - 1."""
        rounds = range(start // n, (start + count - 1) // n + 1)
        row = [np.random.default_rng([self.cfg.seed, 1, stream, r]).permutation(n) for r in rounds]
        begin = start - rounds[0] * n
        return np.concatenate(row)[begin : begin + count]


def _blurred_order(seconds: NDArray[np.float64], windows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws in order of duration, each shifted at random by up to 1/windows of the hours."""
    # A random order first: draws of equal duration must not keep the order of the data.
    shuffled = rng.permutation(len(seconds))
    order = shuffled[np.argsort(seconds[shuffled], kind="stable")]
    place = np.cumsum(seconds[order])
    blurred = place / place[-1] + rng.random(len(order)) / windows
    return order[np.argsort(blurred, kind="stable")]


def _cut(seconds: list[float], tokens: list[int], cfg: PlanConfig) -> list[tuple[int, int]]:
    """Consecutive draws that fit under the caps, as (first, past last); plain Python is fast enough here."""
    bounds = []
    first, longest, most = 0, 0.0, 0
    lattice_cap = cfg.max_lattice if cfg.max_lattice is not None else float("inf")
    slack = cfg.max_seconds * (1 + 1e-9)  # durations are decimal fractions: 10 x 2.1 may exceed 21
    for i, (duration, count) in enumerate(zip(seconds, tokens, strict=True)):
        longest, most, size = max(longest, duration), max(most, count), i - first + 1
        over = (
            size > cfg.max_utterances
            or size * longest > slack
            or size * ceil(longest / cfg.frame_seconds) * (most + 1) > lattice_cap
        )
        if over and size > 1:
            bounds.append((first, i))
            first, longest, most = i, duration, count
    bounds.append((first, len(seconds)))
    return bounds


def _fill(bounds: list[tuple[int, int]], world_size: int) -> int:
    """Make the number of batches a multiple of world_size, in place, dropping nothing.

    The batches with most utterances are halved; where all are single utterances, the shortest are
    repeated. Returns how many were repeated.
    """
    repeated = 0
    while len(bounds) % world_size:
        largest = max(range(len(bounds)), key=lambda b: bounds[b][1] - bounds[b][0])
        first, last = bounds[largest]
        if last - first > 1:
            middle = (first + last) // 2
            bounds[largest : largest + 1] = [(first, middle), (middle, last)]
        else:
            bounds.append(bounds[repeated])
            repeated += 1
    return repeated
