"""A batch plan as a lhotse sampler: use it wherever lhotse's own samplers are used.

sampler = PlanSampler(cuts, PlanConfig(max_seconds=600), rank=rank, world_size=8)
loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=4)
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    for batch in sampler.follow(loader):
        ...
        checkpoint = {"sampler": sampler.state_dict()}
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import CutSampler, attach_dataloading_info

from maya.data.plan.batch_plan import BatchPlan
from maya.data.plan.config import PlanConfig, Position
from maya.data.table.packed import PackedCuts
from maya.errors import MayaError

T = TypeVar("T")


def count_characters(cut: Cut) -> int:
    """Characters of all texts of a cut: stands for the number of tokens where no tokenizer is given."""
    return sum(len(supervision.text or "") for supervision in cut.supervisions)


def language_of(cut: Cut) -> str:
    """Language of the first supervision, "" if there is none."""
    return (cut.supervisions[0].language or "") if cut.supervisions else ""


class PlanSampler(CutSampler):
    """Yields the batches of one rank and epoch as CutSets; each further iteration is the next epoch.

    cuts: any finite CutSet. A lazy one is read once and kept as bytes, about 0.6 KB per cut.
    tokens, language: these give the caps and the temperature their numbers; the same on all ranks.
    rank, world_size: as in lhotse, taken from RANK and WORLD_SIZE or torch.distributed if None is given.
    speeds: factors from which one is drawn for each cut of an epoch; the cut is yielded with it applied.

    A DataLoader with workers asks for batches before it hands them out. `follow(loader)` iterates over the
    loader and counts the batches that it hands out, so that `state_dict()` names the first batch that was not
    used. Without workers the sampler itself knows. A state may be loaded with another number of ranks; if it
    was saved within an epoch, the rest of that epoch is dealt to the present ranks.
    """

    def __init__(
        self,
        cuts: CutSet,
        cfg: PlanConfig,
        *,
        tokens: Callable[[Cut], int] = count_characters,
        language: Callable[[Cut], str] = language_of,
        rank: int | None = None,
        world_size: int | None = None,
        speeds: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(shuffle=True, rank=rank, world_size=world_size, seed=cfg.seed)
        self._cuts: Sequence[Cut] | PackedCuts = PackedCuts() if cuts.is_lazy else list(cuts)
        durations, counts, langs = array("f"), array("i"), array("h")
        codes: dict[str, int] = {}
        for cut in cuts if isinstance(self._cuts, PackedCuts) else self._cuts:
            if isinstance(self._cuts, PackedCuts):
                self._cuts.append(cut)
            durations.append(cut.duration)
            counts.append(tokens(cut))
            langs.append(codes.setdefault(language(cut), len(codes)))
        self.languages = tuple(codes)  # in the order of the plan's language indices
        self.plan = BatchPlan(
            np.frombuffer(durations, np.float32), np.frombuffer(counts, np.int32),
            np.frombuffer(langs, np.int16), cfg, rank=self.rank, world_size=self.world_size, speeds=speeds,
            ids=_Ids(self._cuts),
        )  # fmt: skip
        self._position = self.plan.resume((0, 0))  # the first batch that was not used
        self._next = self._position  # the first batch that was not sampled
        self._ahead: deque[Position] | None = None  # after each batch that a followed loader has asked for

    def __len__(self) -> int:
        """Batches left in this epoch."""
        return self.plan.remaining(self._position)

    def __iter__(self) -> "PlanSampler":
        self._next = self._position
        self.epoch = self._next.epoch
        self.diagnostics.set_epoch(self.epoch)
        return self

    def __next__(self) -> CutSet:
        if self._next.epoch != self.epoch:
            raise StopIteration
        batch = self.batch(self._next)
        self._next = self.plan.advance(self._next)
        if self._ahead is None:
            self._position = self._next
        else:
            self._ahead.append(self._next)
        for transform in self._transforms:
            batch = transform(batch)
        self.diagnostics.keep(batch)
        attach_dataloading_info(batch, rank=self.rank, world_size=self.world_size)
        return batch

    def batch(self, position: Position) -> CutSet:
        """The cuts of this rank's batch at a position of the plan."""
        draws = self.plan.take(position)
        speeds = [self.plan.speeds[i] for i in draws.speeds]
        return CutSet.from_cuts(
            self._cuts[row] if speed == 1.0 else self._cuts[row].perturb_speed(speed)
            for row, speed in zip(draws.rows.tolist(), speeds, strict=True)
        )

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """Iterate over a DataLoader of this sampler; a batch counts as used when it is handed out."""
        self._ahead = deque()
        try:
            for batch in loader:
                self._position = self._ahead.popleft()
                yield batch
        finally:
            self._ahead = None

    def filter(self, predicate: Callable[[Cut], bool]) -> "PlanSampler":
        """Always raises MayaError: the plan is made of all cuts, so they are filtered before."""
        raise MayaError("a PlanSampler has planned its cuts already; filter the CutSet: cuts.filter(...)")

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens within that epoch, as in a resumed run."""
        if epoch != self._position.epoch:
            self._position = self._next = self.plan.resume((epoch, 0))
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position.saved()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was saved. Raises MayaError if the plan has no such batch."""
        self._position = self._next = self.plan.resume(state_dict["position"])
        self.epoch = self._position.epoch

    @property
    def num_cuts(self) -> int:
        return len(self._cuts)

    @property
    def remaining_cuts(self) -> None:
        """Not counted, as in lhotse's lazy samplers; `len(sampler)` is the number of batches left."""

    @property
    def remaining_duration(self) -> None:
        """Not counted, as in lhotse's lazy samplers."""


class _Ids(Sequence[str]):
    """The ids of cuts, looked up when a message needs one."""

    def __init__(self, cuts: Sequence[Cut] | PackedCuts) -> None:
        self._cuts = cuts

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: Any) -> Any:
        return self._cuts[int(index)].id
