"""Batches for training and evaluation, decoded ahead of time.

Training batches come in the order of the plan, whatever the number of workers, each with the position that
follows it. A run that saves the position after the last batch it *used* and starts from there sees
exactly the batches it would have seen: those that were decoded ahead and not used are decoded again.
"""

import logging
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from lhotse import CutSet
from torch.utils.data import DataLoader, Dataset

from maya.data.loading.augment import Augment
from maya.data.loading.batch import Batch
from maya.data.loading.by_length import batches_by_length
from maya.data.loading.cache import AudioCache
from maya.data.loading.meetings import MeetingConfig, MeetingMixer
from maya.data.loading.mixing import Mixer, MixingConfig
from maya.data.loading.reading import BatchReader, Job, Made, Skipped, Skips
from maya.data.plan import BatchPlan, Position
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

T = TypeVar("T")
J = TypeVar("J")  # a batch to be read
log = logging.getLogger(__name__)
_DECODED_AHEAD = 4  # batches, per worker and for the thread that replaces workers
_SLOW_SECONDS = 30.0  # a wait for a batch that is worth a warning


class Readahead(Generic[J]):
    """Endless iterator over (position after the batch, batch), read ahead by workers or by a thread.

    A subclass says which batches are read: `_jobs`, and by what: `reader`, which makes the batch of a job.
    """

    def __init__(
        self,
        reader: Dataset[Made],
        skips: Skips,
        *,
        num_workers: int,
        pin_memory: bool,
        timeout_seconds: float,
    ) -> None:
        self._dataset, self.skips = reader, skips
        self.num_workers, self.pin_memory, self.timeout_seconds = num_workers, pin_memory, timeout_seconds

    def _jobs(self, waiting: deque[J]) -> Iterator[J]:
        """The batches to read, for ever; `waiting` gets those that were handed out."""
        raise NotImplementedError

    def _name(self, job: J) -> str:
        """The first utterance of a job, for messages."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Position, Batch]]:
        waiting: deque[J] = deque()
        jobs = self._jobs(waiting)
        made = self._from_workers(jobs) if self.num_workers else self._from_thread(jobs)
        try:
            while True:
                started = time.perf_counter()
                result = next(made, None)
                if result is None:
                    raise self._stuck(waiting)
                job, waited = waiting.popleft(), time.perf_counter() - started
                if waited > _SLOW_SECONDS:
                    log.warning("waited %.0f s for the batch that begins with %s", waited, self._name(job))
                self.skips.add(result.skipped)
                yield result.position, result.batch
        finally:
            made.close()

    def _from_thread(self, jobs: Iterator[J]) -> Generator[Made, None, None]:
        return _prefetched(
            map(self._dataset.__getitem__, jobs), self.pin_memory, self.timeout_seconds or None
        )

    def _from_workers(self, jobs: Iterator[J]) -> Generator[Made, None, None]:
        """Ends when a batch does not come in time."""
        loader = DataLoader(
            self._dataset,
            batch_size=None,  # a job is a whole batch
            sampler=_Once(jobs),
            num_workers=self.num_workers,
            prefetch_factor=_DECODED_AHEAD,
            pin_memory=self.pin_memory,
            timeout=self.timeout_seconds,
        )
        with clear_worker_errors():
            try:
                for result in loader:
                    yield result.checked()
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise

    def _stuck(self, waiting: deque[J]) -> MayaError:
        return MayaError(
            f"no data came for {self.timeout_seconds:g} s, while waiting for the batch that begins with "
            f"{self._name(waiting[0])}: the storage does not answer, or it is slower than that; look at it, "
            "or raise data.timeout_seconds"
        )


class TrainLoader(Readahead[Job]):
    """Endless iterator over (position after the batch, batch) of one rank.

    cuts: a CutSet, or the Utterances already made of it (making them reads the whole set once).
    sample_rate: of the model's features, Hz; audio of any other rate is resampled to it.
    plan: made from the same utterances (`utterances.durations`, `.token_counts`, `.langs`).
    speed_perturb: factors from which the plan draws one for each utterance of an epoch; empty leaves the
        plan as it is. `self.plan` is the plan followed.
    num_workers: processes that decode; 0 decodes in a thread of this process, which overlaps with training
        all the same, since decoders and PyTorch release the interpreter.
    cache_gb: memory (10^9 bytes, shared by the workers of this rank) in which decoded audio is kept from
        epoch to epoch, bit-exactly; what does not fit is decoded every time. An hour takes 0.23.
    start: the position to begin at, as it was yielded, with any number of ranks (see BatchPlan.resume).
    augment: changes audio after the change of speed; see maya.data.loading.augment.
    mixing: makes mixtures of speakers out of the utterances, or meetings; see maya.data.loading.mixing and
        maya.data.loading.meetings. Raises MayaError for meetings together with speeds.
    max_skipped: share of this rank's utterances that may turn out unreadable. Such an utterance is left out
        of its batch, counted in `skips` and written to `skip_log` (JSON lines with id and reason); with more
        of them, and with 0 at the first, MayaError is raised.
    timeout_seconds: MayaError when a batch has not come after so long; 0 waits for ever.
    """

    def __init__(
        self,
        cuts: CutSet | Utterances,
        tokenizer: Tokenizer,
        languages: Sequence[str],
        plan: BatchPlan,
        *,
        sample_rate: int,
        num_workers: int = 0,
        cache_gb: float = 0.0,
        speed_perturb: Sequence[float] = (),
        start: Position | Sequence[int] = (0, 0),
        pin_memory: bool = False,
        augment: Augment | None = None,
        mixing: MixingConfig | MeetingConfig | None = None,
        max_skipped: float = 0.0,
        skip_log: Path | None = None,
        timeout_seconds: float = 0.0,
    ) -> None:
        if not isinstance(cuts, Utterances):
            cuts = Utterances.from_cuts(cuts, tokenizer, languages)
        if len(cuts) != len(plan):
            raise ValueError(f"the plan is for {len(plan)} utterances, the data has {len(cuts)}")
        self.utterances = cuts
        self.plan = plan.with_speeds(speed_perturb) if speed_perturb else plan
        if isinstance(mixing, MeetingConfig) and any(speed != 1.0 for speed in self.plan.speeds):
            raise MayaError("data.meetings changes no speeds: set data.speed_perturb=1.0")
        self.start = self.plan.resume(start)
        reader = BatchReader(
            cuts, AudioCache(cuts.durations, cache_gb, sample_rate=sample_rate), augment,
            may_skip=max_skipped > 0, sample_rate=sample_rate, mixer=_mixer(mixing, cuts, sample_rate, True),
        )  # fmt: skip
        super().__init__(
            reader, Skips(len(cuts), plan.world_size, max_skipped, skip_log), num_workers=num_workers,
            pin_memory=pin_memory, timeout_seconds=timeout_seconds,
        )  # fmt: skip

    def _jobs(self, waiting: deque[Job]) -> Iterator[Job]:
        plan = self.plan
        for position in plan.positions(self.start):
            rows, speeds, row_of = plan.take(position)
            factors = [plan.speeds[i] for i in speeds]
            after, together = plan.advance(position), None if row_of is None else row_of.tolist()
            job = Job(after, position.epoch, rows.tolist(), factors, together)
            waiting.append(job)
            yield job

    def _name(self, job: Job) -> str:
        return f"utterance {self.utterances.ids[job.items[0]]!r}"


class EvalLoader:
    """Iterates over the batches of one rank, longest first, every utterance exactly once over all ranks.

    Ranks may get one batch more or less than others, so no collective may be called per batch. A batch
    holds at most max_seconds of padded audio and max_utterances; a longer utterance is a batch of its own.
    max_skipped, skip_log: as in `TrainLoader`. `left_out` holds what could not be read in the last iteration.
    sample_rate: of the model's features, Hz; audio of any other rate is resampled to it.
    mixing: as in `TrainLoader`, always the mixtures of epoch 0, and whole.
    """

    def __init__(
        self,
        cuts: CutSet | Utterances,
        tokenizer: Tokenizer,
        languages: Sequence[str],
        *,
        sample_rate: int,
        mixing: MixingConfig | MeetingConfig | None = None,
        max_seconds: float = 200.0,
        max_utterances: int = 128,
        rank: int = 0,
        world_size: int = 1,
        cache_gb: float = 0.0,
        max_skipped: float = 0.0,
        skip_log: Path | None = None,
    ) -> None:
        if not isinstance(cuts, Utterances):
            cuts = Utterances.from_cuts(cuts, tokenizer, languages)
        self.utterances = cuts
        self.left_out: list[Skipped] = []
        self._batches = batches_by_length(cuts.durations, max_seconds, max_utterances)[rank::world_size]
        self._skips = Skips(len(cuts), world_size, max_skipped, skip_log)
        cache = AudioCache(cuts.durations, cache_gb, sample_rate=sample_rate)
        self._dataset = BatchReader(
            cuts, cache, may_skip=max_skipped > 0, stand_in=False, sample_rate=sample_rate,
            mixer=_mixer(mixing, cuts, sample_rate, False),
        )  # fmt: skip

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        jobs = (Job(Position(0, 0), 0, items, [1.0] * len(items)) for items in self._batches)
        self.left_out = []
        for made in _prefetched(map(self._dataset.__getitem__, jobs), pin_memory=False):
            self.left_out += made.skipped
            self._skips.add(made.skipped)
            if not made.is_empty:
                yield made.batch


def _mixer(
    cfg: MixingConfig | MeetingConfig | None, utterances: Utterances, sample_rate: int, crop: bool
) -> Mixer | MeetingMixer | None:
    if isinstance(cfg, MeetingConfig):
        return MeetingMixer(cfg, utterances, sample_rate)
    return Mixer(cfg, utterances, sample_rate, crop=crop) if cfg is not None and cfg.sources else None


class _Once(Iterable[T]):
    """A sampler that hands an iterator through."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return self._items


def _prefetched(
    results: Iterator[Made], pin_memory: bool, timeout: float | None = None
) -> Generator[Made, None, None]:
    """Run an iterator in a thread, a few items ahead; order and errors are kept. Closing stops the thread.

    Ends when an item takes longer than `timeout` seconds.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=_DECODED_AHEAD)
    stop = threading.Event()
    done = object()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for result in results:
                put(result)
                if stop.is_set():
                    return
            put(done)
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, name="maya-loader", daemon=True)
    thread.start()
    stuck = False
    try:
        while (item := ready.get(timeout=timeout)) is not done:
            if isinstance(item, BaseException):
                raise item
            made = item.checked()
            yield made.pin_memory() if pin_memory else made
    except queue.Empty:
        stuck = True
    finally:
        stop.set()
        thread.join(timeout=0.1 if stuck else None)  # a thread that waits for a disk hears nothing


@contextmanager
def clear_worker_errors() -> Iterator[None]:
    """Turn the death of a data worker into a MayaError. PyTorch raises it anywhere in the main thread, also
    within a training step, so training runs inside this context too."""
    try:
        yield
    except RuntimeError as error:
        died = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*?)[.\n]", str(error) + "\n")
        if died is None:
            raise
        raise MayaError(
            f"a data worker (process {died[1]}) {died[2]}: often the system ends the process that takes most "
            "memory, or /dev/shm is full; lower data.num_workers or data.cache_gb, and start again: training "
            "continues from the last checkpoint"
        ) from None
