"""A batch plan as a lhotse sampler, for any CutSet and an ordinary DataLoader of torch.

sampler = PlanSampler(cuts, PlanConfig(max_seconds=600), rank=rank, world_size=8)
loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=4)
for epoch in range(epochs):
    for batch in sampler.follow(loader):
        ...
        checkpoint = {"sampler": sampler.state_dict()}
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import Sampler

from maya.data.plan.batch_plan import BatchPlan
from maya.data.plan.config import PlanConfig, Position
from maya.data.table.packed import PackedCuts

T = TypeVar("T")


def count_characters(cut: Cut) -> int:
    """Characters of all texts of a cut: stands for the number of tokens where no tokenizer is given."""
    return sum(len(supervision.text or "") for supervision in cut.supervisions)


def language_of(cut: Cut) -> str:
    """Language of the first supervision, "" if there is none."""
    return (cut.supervisions[0].language or "") if cut.supervisions else ""


class PlanSampler(Sampler[CutSet]):
    """Yields the batches of one rank and epoch as CutSets; each further iteration is the next epoch.

    cuts: any CutSet. A lazy one is read once and kept as bytes, about 0.6 KB per cut.
    tokens, language: what the caps and the temperature go by; the same on all ranks.
    rank, world_size: those of torch.distributed if it is initialised and None is given.
    speeds: factors from which one is drawn for each cut of an epoch; the cut is yielded with it applied.

    What a DataLoader with workers asks for runs ahead of what it hands out. `follow(loader)` iterates over
    the loader and counts what it hands out, so that `state_dict()` names the first batch that was not used.
    Without workers the sampler itself knows. A state may be loaded with another number of ranks; if it was
    saved within an epoch, what is left of that is dealt to the present ranks.
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
        together = dist.is_available() and dist.is_initialized()
        if world_size is None:
            world_size = dist.get_world_size() if together else 1
        if rank is None:
            rank = dist.get_rank() if together else 0
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
        columns = (
            np.frombuffer(durations, np.float32),
            np.frombuffer(counts, np.int32),
            np.frombuffer(langs, np.int16),
        )
        ids = _Ids(self._cuts)
        self.plan = BatchPlan(*columns, cfg, rank=rank, world_size=world_size, speeds=speeds, ids=ids)
        self._position = self.plan.resume((0, 0))
        self._ahead: deque[Position] | None = None  # after each batch that a followed loader has asked for

    def __len__(self) -> int:
        """Batches left in this epoch."""
        return self.plan.remaining(self._position)

    def __iter__(self) -> Iterator[CutSet]:
        position = self._position
        epoch = position.epoch
        while position.epoch == epoch:
            draws = self.plan.take(position)
            position = self.plan.advance(position)
            if self._ahead is None:
                self._position = position
            else:
                self._ahead.append(position)
            speeds = [self.plan.speeds[i] for i in draws.speeds]
            yield CutSet.from_cuts(
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

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens within that epoch, as in a resumed run."""
        if epoch != self._position.epoch:
            self._position = self.plan.resume((epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        epoch, batch, ranks, before = self._position
        return {"position": [epoch, batch, ranks, [list(stretch) for stretch in before]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved. Raises MayaError if the plan has no such batch."""
        self._position = self.plan.resume(state["position"])


class _Ids(Sequence[str]):
    """The ids of cuts, looked up when a message needs one."""

    def __init__(self, cuts: Sequence[Cut] | PackedCuts) -> None:
        self._cuts = cuts

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: Any) -> Any:
        return self._cuts[int(index)].id
