"""Batches of cuts that come one after the other, without an end or in no known number, such as lhotse Shar.

What cannot be sorted as a whole is sorted in a reservoir: a bounded number of cuts is held in cells of about
equal duration and number of tokens, and each batch is taken from a cell and, where that has too few, from its
neighbours. All caps hold as in a BatchPlan. Languages are mixed before: `CutSet.mux(..., weights=...)`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import attach_dataloading_info
from torch.utils.data import Sampler

import maya.audio.lhotse_audio  # noqa: F401
from maya.data.plan.caps import Caps
from maya.data.plan.cells import log_bins
from maya.data.plan.config import PlanConfig, check
from maya.data.plan.sampler import count_characters
from maya.errors import MayaError

_BITS = 3  # cells are 9 to 12 % wide
_REACH = 3  # a batch may be filled up from so many cells to either side

_Held = tuple[Cut, float, int]  # a cut as it is played, its seconds and tokens


class StreamSampler(Sampler[CutSet]):
    """Yields batches of a stream as CutSets; each cut of the stream is in exactly one of them.

    cuts: what is iterated over, lazily: this rank's own share (in lhotse: split by rank and worker, or
        shuffled with a seed of its own). If it ends, so do the batches, when the reservoir is empty.
    cfg: caps, seed and cost are used; temperature and num_buckets are not.
    held: cuts in the reservoir; more is less padding and more shuffling.
    rank: gives each rank random numbers of its own. All ranks draw the same place in the order of cost for
        the batch of a step, so that their costs are about equal without a word between them.

    To be handed to a DataLoader as its sampler, or with a dataset to lhotse's IterableDatasetWrapper, which
    runs it in the workers. Resuming reads the stream again up to where it was, without any audio.
    """

    rank, world_size = 0, 1  # what lhotse asks a sampler that sees only its own share

    def __init__(
        self,
        cuts: Iterable[Cut],
        cfg: PlanConfig,
        *,
        tokens: Callable[[Cut], int] = count_characters,
        speeds: Sequence[float] = (1.0,),
        held: int = 20_000,
        rank: int = 0,
    ) -> None:
        check(cfg, speeds)
        if held < 1:
            raise MayaError(f"the reservoir must hold at least one cut, not {held}")
        self.cuts, self.cfg, self.speeds, self.held = cuts, cfg, tuple(speeds), held
        self._tokens, self._caps, self._stream = tokens, Caps(cfg), 1 + rank
        self._epoch, self._given, self._skip = 0, 0, 0

    def __iter__(self) -> Iterator[CutSet]:
        skip, self._skip = self._skip, 0
        self._given = 0
        common = np.random.default_rng([self.cfg.seed, self._epoch, 0])
        own = np.random.default_rng([self.cfg.seed, self._epoch, self._stream])
        reservoir, stream, ended = _Reservoir(self._caps, own), iter(self.cuts), False
        while True:
            while not ended and len(reservoir) < self.held:
                cut = next(stream, None)
                ended = cut is None
                if cut is not None:
                    reservoir.add(self._played(cut, own))
            if not len(reservoir):
                return
            batch = reservoir.take(common.random())
            self._given += 1
            if self._given > skip:
                cuts = CutSet.from_cuts(batch)
                attach_dataloading_info(cuts, self.rank, self.world_size)  # IterableDatasetWrapper wants it
                yield cuts

    def set_epoch(self, epoch: int) -> None:
        """Shuffle otherwise from the next iteration on."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "given": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration passes over what was given; the stream must begin as it did then."""
        self._epoch, self._given = state["epoch"], state["given"]
        self._skip = self._given

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


class _Reservoir:
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
