"""Batches of cuts that come one after the other, in an unknown number or without an end, as a lhotse sampler.

Such cuts cannot be sorted as a whole, so they are sorted in a reservoir: a bounded number of cuts is held in
cells of about equal duration and number of tokens, and each batch is taken from a cell and, where that has
too few, from its neighbours. All caps hold as in a BatchPlan. Mix languages before:
`CutSet.mux(..., weights=...)`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import CutSampler

import maya.audio.lhotse_audio  # noqa: F401
from maya.data.plan.caps import Caps
from maya.data.plan.cells import log_bins
from maya.data.plan.config import PlanConfig, check
from maya.data.plan.sampler import count_characters
from maya.errors import MayaError

_BITS = 3  # cells are 9 to 12 % wide
_REACH = 3  # a batch may be filled up from so many cells to either side

_Held = tuple[Cut, float, int]  # a cut as it is played, its seconds and tokens


class StreamSampler(CutSampler):
    """Yields batches of a stream as CutSets; each cut of the stream is in exactly one of them.

    cuts: iterated over lazily. Every rank reads all of it and takes its own batch of each step, so all ranks
        have equally many. If the stream ends, so do the batches, when the reservoir is empty.
    cfg: caps, seed and cost are used; temperature and num_buckets are not.
    held: cuts in the reservoir; more is less padding and more shuffling.
    rank, world_size: as in lhotse. Give 0 and 1 where `cuts` is this rank's own share (lhotse's split by rank
        and worker), and then `stream`, its number.
    stream: gives each stream random numbers of its own. Whatever it is, the batches of a step come from the
        same place in the order of cost, so that their costs are about equal.

    Use it as the sampler of a DataLoader, or with lhotse's IterableDatasetWrapper, which runs it in the
    workers. Resuming reads the stream again up to where it was, without any audio.
    """

    def __init__(
        self,
        cuts: Iterable[Cut],
        cfg: PlanConfig,
        *,
        tokens: Callable[[Cut], int] = count_characters,
        speeds: Sequence[float] = (1.0,),
        held: int = 20_000,
        rank: int | None = None,
        world_size: int | None = None,
        stream: int = 0,
    ) -> None:
        super().__init__(shuffle=True, rank=rank, world_size=world_size, seed=cfg.seed)
        check(cfg, speeds)
        if held < 1:
            raise MayaError(f"the reservoir must hold at least one cut, not {held}")
        self.cuts, self.cfg, self.speeds, self.held = cuts, cfg, tuple(speeds), held
        self._tokens, self._caps, self._stream = tokens, Caps(cfg), 1 + stream
        self._given, self._skip = 0, 0  # steps of this epoch so far; those to pass over
        self._batches: Iterator[CutSet] = iter(())

    def __iter__(self) -> "StreamSampler":
        self._batches, self._given = self._epoch_batches(), 0
        self.diagnostics.reset_current_epoch()
        skip, self._skip = self._skip, 0
        for _ in range(skip):
            next(self)
        return self

    def __next__(self) -> CutSet:
        batch = super().__next__()
        self._given += 1
        return batch

    def _next_batch(self) -> CutSet:
        return next(self._batches)

    def _epoch_batches(self) -> Iterator[CutSet]:
        """The batches of all ranks in an epoch, those of a step in a row."""
        common = np.random.default_rng([self.cfg.seed, self.epoch, 0])
        own = np.random.default_rng([self.cfg.seed, self.epoch, self._stream])
        reservoir, stream, ended = _CutReservoir(self._caps, own), iter(self.cuts), False
        while True:
            quantile = common.random()
            for _ in range(self.world_size):
                while not ended and len(reservoir) < self.held:
                    cut = next(stream, None)
                    ended = cut is None
                    if cut is not None:
                        reservoir.add(self._played(cut, own))
                if not len(reservoir):
                    return
                yield CutSet.from_cuts(reservoir.take(quantile))

    def set_epoch(self, epoch: int) -> None:
        """Shuffle otherwise from the next iteration on."""
        if epoch != self.epoch:
            self._skip = 0
        super().set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "given": self._given, "world_size": self.world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iteration passes over the batches that were given; the stream must begin as it did then.
        Raises MayaError for the state of another number of ranks."""
        if state_dict["world_size"] != self.world_size:
            raise MayaError(
                f"the sampler's state is of {state_dict['world_size']} rank(s), and there are "
                f"{self.world_size}; start with as many, or use a PlanSampler"
            )
        self.set_epoch(state_dict["epoch"])
        self._given = self._skip = state_dict["given"]

    @property
    def num_cuts(self) -> None:
        """Unknown, as in lhotse's lazy samplers."""

    @property
    def remaining_cuts(self) -> None:
        """Unknown, as in lhotse's lazy samplers."""

    @property
    def remaining_duration(self) -> None:
        """Unknown, as in lhotse's lazy samplers."""

    def _played(self, cut: Cut, rng: np.random.Generator) -> _Held:
        cap = self.cfg.max_seconds
        if cap is not None and self.cfg.too_long == "error" and cut.duration > cap:
            raise MayaError(
                f"utterance {cut.id!r} is {cut.duration:.1f} s long, more than the plan's "
                f'max_seconds={cap:g}; raise max_seconds, filter the cuts, or set too_long="alone"'
            )
        tokens = self._tokens(cut)
        speed = self.speeds[int(rng.integers(len(self.speeds)))]
        return (cut if speed == 1.0 else cut.perturb_speed(speed)), cut.duration / speed, tokens


class _CutReservoir:
    """Cuts by size, of which batches are taken."""

    def __init__(self, caps: Caps, rng: np.random.Generator) -> None:
        self._caps, self._rng = caps, rng
        self._cells: dict[tuple[int, int], list[_Held]] = {}
        self._shares: dict[tuple[int, int], float] = {}  # of a batch, that each cell's latest cut takes
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, held: _Held) -> None:
        _, seconds, tokens = held
        key = (
            int(log_bins(seconds, _BITS)),
            int(log_bins(tokens + 1.0, _BITS - 1)) if self._caps.by_tokens else 0,
        )
        self._cells.setdefault(key, []).append(held)
        self._shares[key] = 1 / int(self._caps.size(seconds, tokens))
        self._count += 1

    def take(self, quantile: float) -> list[Cut]:
        """A batch around this place, from 0 to 1, in the order of size."""
        keys = sorted(self._cells)
        loads = np.cumsum([len(self._cells[key]) * self._shares[key] for key in keys])
        middle = min(int(np.searchsorted(loads, quantile * loads[-1])), len(keys) - 1)
        around = sorted(
            range(max(0, middle - _REACH), min(len(keys), middle + _REACH + 1)), key=lambda i: abs(i - middle)
        )
        batch: list[Cut] = []
        longest, most = 0.0, 0
        for i in around:
            cell = self._cells[keys[i]]
            while cell:
                place = int(self._rng.integers(len(cell)))
                cut, seconds, tokens = cell[place]
                new_longest, new_most = max(longest, seconds), max(most, tokens)
                if batch and len(batch) + 1 > int(self._caps.size(new_longest, new_most)):
                    break
                cell[place] = cell[-1]
                cell.pop()
                batch.append(cut)
                longest, most = new_longest, new_most
            if not cell:
                del self._cells[keys[i]]
        self._count -= len(batch)
        return batch
