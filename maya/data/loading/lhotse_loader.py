"""Batches for training and evaluation of lhotse cuts, without a table.

`PlannedCuts` and `StreamedCuts` tell which cuts make which batch; `CutLoader` reads them ahead of time. As
with tables, batches come with the position that follows each of them, and a run that starts from a saved
position sees exactly the batches it would have seen. A plan seeks to it. A stream reads the cuts of the pass
again up to it, without their audio, and compares them by a digest with those that were read the first time.
"""

import hashlib
import json
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import CutSampler
from torch import Tensor
from torch.utils.data import Dataset

from maya.audio.load import load_cut_audio
from maya.data.loading.augment import Augment
from maya.data.loading.batch import Batch, make_batch
from maya.data.loading.by_length import batches_by_length
from maya.data.loading.lhotse_cuts import CutSource, CutTranscripts, UnusableCut, described
from maya.data.loading.loader import Readahead
from maya.data.loading.reading import Made, Skipped, Skips
from maya.data.plan.config import Position
from maya.data.plan.sampler import PlanSampler
from maya.data.table.packed import labels_of
from maya.errors import MayaError
from maya.text.languages import language_index
from maya.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
_LEAST_SHARED = 10_000  # utterances that max_skipped is a share of, until so many have been read

Check = Callable[[Cut], None]
"""Raises UnusableCut for a cut that is left out, MayaError for one that stops the training."""
MakeSampler = Callable[[Iterable[Cut], int, int], CutSampler]
"""cuts, rank, world_size -> a sampler of lhotse's protocol, whose epoch is set by `set_epoch`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutJob:
    """A batch to be read: the position after it, its epoch (pass) and its cuts."""

    position: Position
    epoch: int
    cuts: list[Cut]


class CutBatches(Protocol):
    """This rank's batches. batches_per_pass: 0 where that is unknown. utterances: in a pass, likewise."""

    batches_per_pass: int
    utterances: int
    world_size: int

    def jobs(self, start: Position) -> Iterator[CutJob]:
        """The batches from a position on, for ever."""


class CutStream:
    """The usable cuts of one pass after the other, each played at one of `speeds`.

    The speed is a function of (seed, epoch, id). log_path: JSON lines, the cuts that `check` left out of the
    first pass that is read.
    """

    def __init__(
        self, source: CutSource, check: Check, *, speeds: tuple[float, ...] = (1.0,),
        log_path: Path | None = None,
    ) -> None:  # fmt: skip
        self.source, self.speeds, self.epoch = source, speeds, 0
        self.without: set[str] = set()  # ids that this pass has had
        self._check, self._log_path, self._hash = check, log_path, hashlib.sha256()
        self._logged: int | None = None  # the first pass that is read

    @property
    def digest(self) -> str:
        """Of all cuts that were read since `begin`."""
        return self._hash.hexdigest()[:16]

    def begin(self, epoch: int) -> None:
        """Go to the beginning of a pass."""
        self.epoch, self.without, self._hash = epoch, set(), hashlib.sha256()
        self._logged = epoch if self._logged is None else self._logged

    def __iter__(self) -> Iterator[Cut]:
        path = self._log_path if self.epoch == self._logged else None
        first, kept, repeated = "", 0, 0
        with nullcontext() if path is None else path.open("w", 1, encoding="utf-8") as log_file:
            for cut in self.source.open(self.epoch):
                self._hash.update(json.dumps(described(cut)).encode())
                try:
                    self._check(cut)
                except UnusableCut as error:
                    first = first or f"{cut.id!r}: {error}"
                    if log_file is not None:
                        line = {"id": cut.id, "reason": str(error)}
                        log_file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    continue
                kept += 1
                played = self._played(cut)
                if played.id in self.without:
                    repeated += 1
                else:
                    yield played
        if repeated < len(self.without):
            log.warning(
                "%d cuts of pass %d are trained on twice: they have another id each time they are read; "
                "give lhotse's mix() preserve_id='left'", len(self.without) - repeated, self.epoch + 1,
            )  # fmt: skip
        if not kept:
            raise MayaError(f"{self.source.name}: no cut can be trained on; {first or 'there is none'}")

    def _played(self, cut: Cut) -> Cut:
        if self.speeds == (1.0,):
            return cut
        speed = random.Random(f"{self.source.seed}/{self.epoch}/{cut.id}").choice(self.speeds)
        return cut if speed == 1.0 else cut.perturb_speed(speed)


class PlannedCuts:
    """Batches by our plan, of cuts that are read once; `sampler.plan` says which. digest: of all cuts."""

    def __init__(self, sampler: PlanSampler, digest: str) -> None:
        self._sampler, plan, self.digest = sampler, sampler.plan, digest
        self.utterances, self.batches_per_pass = len(plan), plan.num_batches(0)
        self.world_size = sampler.world_size
        self.hours = float(plan.durations.sum()) / 3600

    def jobs(self, start: Position) -> Iterator[CutJob]:
        plan = self._sampler.plan
        for position in plan.positions(plan.resume(start)):
            cuts = list(self._sampler.batch(position))
            yield CutJob(position=plan.advance(position), epoch=position.epoch, cuts=cuts)


class StreamedCuts:
    """Batches by a sampler that reads the cuts of each pass as they come.

    A pass may begin with stretches that other numbers of ranks have done. Their cuts are then found by
    sampling as they did, and left out of what the present ranks sample.
    """

    batches_per_pass = utterances = 0

    def __init__(self, stream: CutStream, make_sampler: MakeSampler, *, rank: int, world_size: int) -> None:
        self._stream, self._make_sampler, self._rank, self._ranks = stream, make_sampler, rank, world_size
        self.world_size = world_size

    def jobs(self, start: Position) -> Iterator[CutJob]:
        epoch = start.epoch
        while True:
            before, steps = start.before, start.batch
            if start.ranks not in (0, self._ranks) and steps:
                before, steps = (*before, (start.ranks, steps)), 0
            yield from self._pass(epoch, before, steps, start.digest)
            epoch += 1
            start = Position(epoch, 0)

    def _pass(
        self, epoch: int, before: tuple[tuple[int, int], ...], steps: int, digest: str
    ) -> Iterator[CutJob]:
        """The batches of a pass after so many steps of each stretch and of the present ranks."""
        self._stream.begin(epoch)
        for ranks, count in before:
            self._stream.without |= self._used(epoch, ranks, count)
        sampler = iter(self._sampler(epoch, self._rank, self._ranks))
        for _ in range(steps):
            next(sampler, None)
        if digest and digest != self._stream.digest and self._rank == 0:
            log.warning(
                "the cuts of pass %d come in another order than before the checkpoint was saved, so the rest "
                "of this pass repeats some cuts and misses others; give every random step of the CutSet a "
                "seed", epoch + 1,
            )  # fmt: skip
        batch: CutSet | None = next(sampler, None)
        while batch is not None:
            cuts, steps = list(batch), steps + 1
            place = Position(epoch, steps, self._ranks, before, self._stream.digest)
            batch = next(sampler, None)
            if batch is None:
                place = Position(epoch + 1, 0, self._ranks)
            yield CutJob(position=place, epoch=epoch, cuts=cuts)

    def _sampler(self, epoch: int, rank: int, ranks: int) -> CutSampler:
        sampler = self._make_sampler(self._stream, rank, ranks)
        sampler.set_epoch(epoch)
        return sampler

    def _used(self, epoch: int, ranks: int, steps: int) -> set[str]:
        """Ids of the cuts that so many ranks have used in so many steps."""
        sampler = iter(self._sampler(epoch, 0, ranks))
        used: set[str] = set()
        for _ in range(steps * ranks):  # lhotse's `next` takes the batches of all ranks and hands out one
            used.update(cut.id for cut in sampler._next_batch())
        return used


class CutReader(Dataset[Made]):
    """Makes the batch of a job, its audio at `sample_rate` Hz.

    may_skip: a cut that cannot be read is left out. A batch of which nothing can be read becomes that of the
    last cut that could, because the other ranks wait for this one to take part in the step; without
    `stand_in`, such a batch is empty.
    """

    def __init__(
        self, transcripts: CutTranscripts, tokenizer: Tokenizer, *, sample_rate: int,
        augment: Augment | None = None, may_skip: bool = False, stand_in: bool = True,
    ) -> None:  # fmt: skip
        self.transcripts, self.tokenizer, self.sample_rate = transcripts, tokenizer, sample_rate
        self.augment, self.may_skip, self.stand_in = augment, may_skip, stand_in
        self._last: tuple[Cut, Tensor] | None = None

    def __getitem__(self, job: CutJob) -> Made:
        skipped: list[Skipped] = []
        audio: list[tuple[Cut, Tensor]] = []
        for cut in job.cuts:
            try:
                audio.append((cut, self._audio(cut, job.epoch)))
            except MayaError as error:
                if not self.may_skip:
                    return Made(job.position, None, skipped, error)
                skipped.append(Skipped(cut.id, str(error)))
        if audio:
            self._last = audio[-1]
        elif self.stand_in and self._last is not None:
            audio = [self._last]
        elif self.stand_in:
            reason = f"none of the {len(skipped)} utterances of the first batch can be read; the first: "
            return Made(job.position, None, skipped, MayaError(reason + skipped[0].reason))
        try:
            return Made(job.position, self._batch(audio, job.epoch) if audio else None, skipped)
        except MayaError as error:
            return Made(job.position, None, skipped, error)

    def _batch(self, audio: list[tuple[Cut, Tensor]], epoch: int) -> Batch:
        transcripts = [self.transcripts.read(cut) for cut, _ in audio]
        return make_batch(
            [samples for _, samples in audio],
            self.tokenizer.encode_batch([text for _, text in transcripts], [code for code, _ in transcripts]),
            [language_index(code, self.transcripts.languages) for code, _ in transcripts],
            [cut.id for cut, _ in audio],
            sample_rate=self.sample_rate,
            labels=_labels([cut for cut, _ in audio]),
            warps=self.augment.warps([cut.id for cut, _ in audio], epoch) if self.augment else None,
        )

    def _audio(self, cut: Cut, epoch: int) -> Tensor:
        audio = load_cut_audio(cut, self.sample_rate)
        return audio if self.augment is None else self.augment(audio, cut.id, epoch)


class CutLoader(Readahead[CutJob]):
    """As `TrainLoader`, over the batches that `cuts` gives.

    max_skipped: where the number of utterances is unknown, the share of those read so far, or of 10 000.
    """

    def __init__(
        self, cuts: CutBatches, reader: CutReader, *, start: Position, num_workers: int = 0,
        pin_memory: bool = False, max_skipped: float = 0.0, skip_log: Path | None = None,
        timeout_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        self._cuts, self.start, self._share = cuts, start, max_skipped
        count = cuts.utterances or cuts.world_size * _LEAST_SHARED
        skips = Skips(count, cuts.world_size, max_skipped, skip_log)
        super().__init__(
            reader, skips, num_workers=num_workers, pin_memory=pin_memory, timeout_seconds=timeout_seconds
        )

    def _jobs(self, waiting: deque[CutJob]) -> Iterator[CutJob]:
        read = 0
        for job in self._cuts.jobs(self.start):
            read += len(job.cuts)
            if not self._cuts.utterances:
                self.skips.allowed = self._share * max(read, _LEAST_SHARED)
            waiting.append(job)
            yield job

    def _name(self, job: CutJob) -> str:
        return f"utterance {job.cuts[0].id!r}"


class CutEvalLoader:
    """Iterates over this rank's batches of the usable cuts of `source`, every one once over all ranks.

    As `EvalLoader`: longest first, at most max_seconds of padded audio a batch; `left_out` holds those that
    could not be read in the last iteration. references: the text of each id, in normal form. Raises MayaError
    if no cut is usable, or an id occurs twice.
    """

    def __init__(
        self, utterances: list[Cut], reader: CutReader, *, max_seconds: float, max_utterances: int = 128,
        rank: int = 0, world_size: int = 1, max_skipped: float = 0.0, skip_log: Path | None = None,
    ) -> None:  # fmt: skip
        self.utterances, self._reader = utterances, reader
        self.references = {cut.id: reader.transcripts.read(cut)[1] for cut in utterances}
        if len(self.references) < len(utterances):
            raise MayaError("two cuts to evaluate on have the same id; give each an id of its own")
        durations = np.array([cut.duration for cut in utterances])
        self._batches = batches_by_length(durations, max_seconds, max_utterances)[rank::world_size]
        self.left_out: list[Skipped] = []
        self._skips = Skips(len(utterances), world_size, max_skipped, skip_log)

    def __iter__(self) -> Iterator[Batch]:
        self.left_out = []
        for items in self._batches:
            cuts = [self.utterances[item] for item in items]
            made = self._reader[CutJob(position=Position(0, 0), epoch=0, cuts=cuts)].checked()
            self.left_out += made.skipped
            self._skips.add(made.skipped)
            if not made.is_empty:
                yield made.batch


def _labels(cuts: list[Cut]) -> dict[str, list[str | None]]:
    """The labels of a batch by name: those of the first supervision of each cut."""
    rows = [labels_of(cut.supervisions[0]) for cut in cuts]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}
