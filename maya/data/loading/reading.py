"""From the utterances of a batch to the batch: decoding, speed, augmentation, and unreadable audio."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from maya.audio.load import change_speed
from maya.data.loading.augment import Augment
from maya.data.loading.batch import Batch, make_batch
from maya.data.loading.cache import AudioCache
from maya.data.loading.meetings import MeetingMixer
from maya.data.loading.mixing import Mixed, Mixer
from maya.data.plan import Position
from maya.data.table.utterances import Utterances
from maya.errors import MayaError

log = logging.getLogger(__name__)
_STAND_INS = 16  # utterances tried in place of a batch of which nothing can be read
_NAMED = 5  # utterances that messages name


class Job(NamedTuple):
    """A batch to be read: the position after it, its epoch, its utterances, the speed of each, and where they
    form rows of one speaker the number of the row of each."""

    position: Position
    epoch: int
    items: list[int]
    speeds: list[float]
    row_of: list[int] | None = None


class Skipped(NamedTuple):
    """An utterance that could not be read, and why."""

    id: str
    reason: str


class Made:
    """The batch of a job, or the error in its place: raised in a worker, a traceback would bury it."""

    def __init__(
        self, position: Position, batch: Batch | None, skipped: list[Skipped], error: MayaError | None = None
    ) -> None:
        self.position, self.skipped = position, skipped
        self._batch, self._error = batch, error

    def checked(self) -> "Made":
        """Raises the error, if that is what it holds."""
        if self._error is not None:
            raise self._error
        return self

    @property
    def batch(self) -> Batch:
        assert self._batch is not None
        return self._batch

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the batch could be read."""
        return self._batch is None

    def pin_memory(self) -> "Made":
        """As Batch.pin_memory; DataLoader calls it."""
        if self._batch is not None:
            self._batch = self._batch.pin_memory()
        return self


class Read(NamedTuple):
    """An utterance that was read: its place in the table, its audio, its row in `Batch.row_of`, its speed,
    and the mixture that it became, if it did."""

    item: int
    audio: Tensor
    row: int
    speed: float
    mixed: Mixed | None = None


class BatchReader(Dataset[Made]):
    """Makes the batch of a job, its audio at `sample_rate` Hz.

    may_skip: an utterance that cannot be read is left out. stand_in: a batch of which nothing can be read
    becomes that of a single other utterance, because the other ranks wait for this one to take part in the
    step; without, such a batch is empty. mixer: makes each utterance a mixture with others.
    """

    def __init__(
        self,
        utterances: Utterances,
        cache: AudioCache,
        augment: Augment | None = None,
        may_skip: bool = False,
        stand_in: bool = True,
        *,
        sample_rate: int,
        mixer: Mixer | MeetingMixer | None = None,
    ) -> None:
        self.mixer = mixer
        self.utterances, self.cache, self.sample_rate = utterances, cache, sample_rate
        self.augment, self.may_skip, self.stand_in = augment, may_skip, stand_in

    def __getitem__(self, job: Job) -> Made:
        skipped: list[Skipped] = []
        try:
            read = self._read(job, skipped)
            if not read and self.stand_in:
                read = self._stand_in(job, skipped)
        except MayaError as error:
            return Made(job.position, None, skipped, error)
        if not read:
            return Made(job.position, None, skipped)
        u = self.utterances
        items = [own.item for own in read]
        batch = make_batch(
            [own.audio for own in read],
            [u.tokens(item) for item in items],
            [int(u.langs[item]) for item in items],
            [u.ids[item] for item in items],
            sample_rate=self.sample_rate,
            labels=u.labels(items),
            warps=self.augment.warps([u.ids[item] for item in items], job.epoch) if self.augment else None,
        )
        if job.row_of is not None:
            batch.row_of = torch.tensor([own.row for own in read])
        mixtures = [own.mixed for own in read if own.mixed is not None]
        for name in dict.fromkeys(name for mixed in mixtures for name in mixed.labels):
            batch.labels[name] = [mixed.labels[name] for mixed in mixtures]
        if sources := [mixed.sources for mixed in mixtures if mixed.sources is not None]:
            batch.sources = _padded(sources)
        if any(own.speed != 1.0 for own in read):
            batch.speeds = [own.speed for own in read]
        return Made(job.position, batch, skipped)

    def _read(self, job: Job, skipped: list[Skipped]) -> list[Read]:
        """What can be read of these utterances, with their rows; the others go to `skipped`."""
        read = []
        rows = job.row_of or [0] * len(job.items)
        other = partial(self._audio, speed=1.0, epoch=job.epoch)
        for item, speed, row in zip(job.items, job.speeds, rows, strict=True):
            try:
                audio = self._audio(item, speed, job.epoch)
                mixed = None if self.mixer is None else self.mixer(item, audio, job.epoch, other)
                read.append(Read(item, audio if mixed is None else mixed.mixture, row, speed, mixed))
            except MayaError as error:
                if not self.may_skip:
                    raise
                skipped.append(Skipped(self.utterances.ids[item], str(error)))
        return read

    def _stand_in(self, job: Job, skipped: list[Skipped]) -> list[Read]:
        tried: list[Skipped] = []
        for step in range(1, _STAND_INS + 1):
            other = (job.items[0] + step * len(self.utterances) // (_STAND_INS + 1)) % len(self.utterances)
            if read := self._read(Job(job.position, job.epoch, [other], [1.0]), tried):
                return read
        raise MayaError(
            f"none of {len(skipped) + len(tried)} utterances in a row can be read; is the storage there? "
            f"The first: {skipped[0].reason}"
        )

    def _audio(self, item: int, speed: float, epoch: int) -> Tensor:
        audio = self.cache.get(item)
        if audio is None:
            audio = self.utterances.source.load_audio(item, self.sample_rate)
            self.cache.put(item, audio)
        if speed != 1.0:
            audio = change_speed(audio, speed, self.sample_rate)
        return audio if self.augment is None else self.augment(audio, self.utterances.ids[item], epoch)


def _padded(rows: list[Tensor]) -> Tensor:
    """(B, K, N) of the sources (K, n) of each utterance."""
    out = torch.zeros(len(rows), len(rows[0]), max(row.shape[1] for row in rows))
    for place, row in zip(out, rows, strict=True):
        place[:, : row.shape[1]] = row
    return out


class Skips:
    """The utterances that this rank could not read, each counted once, and when they are too many.

    utterances: in the data of all ranks. max_share: of this rank's part of them. log_path: where they are
    written to, a line of JSON each.
    """

    def __init__(
        self, utterances: int, world_size: int, max_share: float, log_path: Path | None = None
    ) -> None:
        self.allowed = max_share * utterances / world_size  # utterances of this rank
        self._share, self._path = max_share, log_path
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, skipped: list[Skipped]) -> None:
        """Count these; MayaError when there are too many."""
        new = [item for item in skipped if item.id not in self.reasons]
        if not new:
            return
        self.reasons |= dict(new)
        for item in new:
            if len(self) <= _NAMED:
                log.warning("left out: %s", item.reason)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:  # one write, which other ranks do not split
                file.write("".join(json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in new))
        if len(self) > self.allowed:
            names = ", ".join(map(repr, list(self.reasons)[:_NAMED])) + (" ..." if len(self) > _NAMED else "")
            where = f"; all of them are in {self._path}" if self._path is not None else ""
            raise MayaError(
                f"{len(self)} utterances cannot be read ({names}), more than data.max_skipped="
                f"{self._share:g} allows{where}. The last: {new[-1].reason}"
            )
