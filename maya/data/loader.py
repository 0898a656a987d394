"""Batches for training and evaluation, decoded ahead of time.

Training batches come in the order of the plan, whatever the number of workers, each with the position that
follows it. A run that saves the position after the last batch it *used* and starts from there sees
exactly the batches it would have seen: those that were decoded ahead and not used are decoded again.
"""

import mmap
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from lhotse import CutSet
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maya.data.audio import SAMPLE_RATE, change_speed, load_cut_audio
from maya.data.batch import Batch, make_batch
from maya.data.plan import BatchPlan, Position
from maya.data.utterances import Utterances
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

T = TypeVar("T")
_DECODED_AHEAD = 4  # batches, per worker and for the thread that replaces workers


class TrainLoader:
    """Endless iterator over (position after the batch, batch) of one rank.

    cuts: a CutSet, or the Utterances already made of it (making them reads the whole set once).
    plan: made from the same utterances (`utterances.durations`, `.token_counts`, `.langs`).
    speed_perturb: factors from which the plan draws one for each utterance of an epoch; empty leaves the
        plan as it is. `self.plan` is the plan followed.
    num_workers: processes that decode; 0 decodes in a thread of this process, which overlaps with training
        all the same, since decoders and PyTorch release the interpreter.
    cache_gb: memory (10^9 bytes, shared by the workers of this rank) in which decoded audio is kept from
        epoch to epoch, bit-exactly; what does not fit is decoded every time. An hour takes 0.23.
    start: the position to begin at, as it was yielded, with any number of ranks (see BatchPlan.resume).
    """

    def __init__(
        self,
        cuts: CutSet | Utterances,
        tokenizer: Tokenizer,
        languages: Sequence[str],
        plan: BatchPlan,
        *,
        num_workers: int = 0,
        cache_gb: float = 0.0,
        speed_perturb: Sequence[float] = (),
        start: Position | Sequence[int] = (0, 0),
        pin_memory: bool = False,
    ) -> None:
        if not isinstance(cuts, Utterances):
            cuts = Utterances.from_cuts(cuts, tokenizer, languages)
        if len(cuts) != len(plan):
            raise ValueError(f"the plan is for {len(plan)} utterances, the data has {len(cuts)}")
        self.utterances = cuts
        self.plan = plan.with_speeds(speed_perturb) if speed_perturb else plan
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.start = self.plan.resume(start)
        self._dataset = _Batches(cuts, AudioCache(cuts.durations, cache_gb))

    def __iter__(self) -> Iterator[tuple[Position, Batch]]:
        if self.num_workers == 0:
            return _prefetched(map(self._dataset.__getitem__, self._jobs()), self.pin_memory)
        return self._from_workers()

    def _jobs(self) -> Iterator["_Job"]:
        plan = self.plan
        for position in plan.positions(self.start):
            rows, speeds = plan.take(position)
            yield plan.advance(position), rows.tolist(), [plan.speeds[i] for i in speeds]

    def _from_workers(self) -> Iterator[tuple[Position, Batch]]:
        loader = DataLoader(
            self._dataset,
            batch_size=None,  # a job is a whole batch
            sampler=_Once(self._jobs()),
            num_workers=self.num_workers,
            prefetch_factor=_DECODED_AHEAD,
            pin_memory=self.pin_memory,
        )
        for result in loader:
            yield _checked(result)


class EvalLoader:
    """Iterates over the batches of one rank, longest first, every utterance exactly once over all ranks.

    Ranks may get one batch more or less than others, so no collective may be called per batch. A batch
    holds at most max_seconds of padded audio and max_utterances; a longer utterance is a batch of its own.
    """

    def __init__(
        self,
        cuts: CutSet | Utterances,
        tokenizer: Tokenizer,
        languages: Sequence[str],
        *,
        max_seconds: float = 200.0,
        max_utterances: int = 128,
        rank: int = 0,
        world_size: int = 1,
        cache_gb: float = 0.0,
    ) -> None:
        if not isinstance(cuts, Utterances):
            cuts = Utterances.from_cuts(cuts, tokenizer, languages)
        self.utterances = cuts
        self._batches = _longest_first(cuts.durations, max_seconds, max_utterances)[rank::world_size]
        self._dataset = _Batches(cuts, AudioCache(cuts.durations, cache_gb))

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        jobs = ((Position(0, 0), items, [1.0] * len(items)) for items in self._batches)
        for _, batch in _prefetched(map(self._dataset.__getitem__, jobs), pin_memory=False):
            yield batch


def eval_batches(
    cuts: CutSet | Utterances, tokenizer: Tokenizer, languages: Sequence[str], **options: Any
) -> Iterator[Batch]:
    """The batches of an `EvalLoader` with these options."""
    return iter(EvalLoader(cuts, tokenizer, languages, **options))


class AudioCache:
    """Decoded audio of the first utterances that fit, in memory that forked workers share.

    The memory is an anonymous shared mapping, which the system fills in as it is written to and which is
    not limited by the size of /dev/shm. Two workers may decode the same utterance at once; both write the
    same samples.
    """

    def __init__(self, durations: np.ndarray, gigabytes: float) -> None:
        # One spare sample each: a duration in decimal seconds may round to a sample less.
        room = np.ceil(durations * SAMPLE_RATE).astype(np.int64) + 1
        ends = np.cumsum(room)
        self._count = int(np.searchsorted(ends, gigabytes * 1e9 / 4, side="right"))
        self._starts = (ends - room)[: self._count]
        self._room = room[: self._count]
        if self._count:
            self._samples = np.frombuffer(mmap.mmap(-1, int(ends[self._count - 1]) * 4), dtype=np.float32)
            # 0 until the samples are there, then their number
            self._lengths = np.frombuffer(mmap.mmap(-1, self._count * 8), dtype=np.int64)

    def __len__(self) -> int:
        """Number of utterances that fit."""
        return self._count

    def get(self, index: int) -> Tensor | None:
        """(N,) samples of an utterance, None if they are not kept."""
        if index >= self._count or self._lengths[index] == 0:
            return None
        start = self._starts[index]
        return torch.from_numpy(self._samples[start : start + self._lengths[index]])

    def put(self, index: int, audio: Tensor) -> None:
        if index < self._count and 0 < len(audio) <= self._room[index]:
            start = self._starts[index]
            self._samples[start : start + len(audio)] = audio.numpy()
            self._lengths[index] = len(audio)

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker cannot share the memory and keeps nothing."""
        return {"_count": 0}


_Job = tuple[Position, list[int], list[float]]  # position after the batch, utterances, speeds


class _Batches(Dataset[tuple[Position, Batch] | MayaError]):
    """Makes the batch of a job. A MayaError is returned, not raised: workers bury it in a traceback."""

    def __init__(self, utterances: Utterances, cache: AudioCache) -> None:
        self.utterances, self.cache = utterances, cache

    def __getitem__(self, job: _Job) -> tuple[Position, Batch] | MayaError:
        position, items, speeds = job
        try:
            audio = [self._audio(item, speed) for item, speed in zip(items, speeds, strict=True)]
        except MayaError as error:
            return error
        u = self.utterances
        batch = make_batch(
            audio,
            [u.tokens(item) for item in items],
            [int(u.langs[item]) for item in items],
            [u.ids[item] for item in items],
        )
        return position, batch

    def _audio(self, item: int, speed: float) -> Tensor:
        audio = self.cache.get(item)
        if audio is None:
            audio = load_cut_audio(self.utterances.cut(item))
            self.cache.put(item, audio)
        return change_speed(audio, speed) if speed != 1.0 else audio


class _Once(Iterable[T]):
    """A sampler that hands an iterator through."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return self._items


def _checked(result: tuple[Position, Batch] | MayaError) -> tuple[Position, Batch]:
    if isinstance(result, MayaError):
        raise result
    position, batch = result
    return Position.of(position), batch  # DataLoader has made lists of the tuples in it


def _longest_first(durations: np.ndarray, max_seconds: float, max_utterances: int) -> list[list[int]]:
    batches: list[list[int]] = []
    order = np.argsort(-durations, kind="stable").tolist()
    begin = 0
    while begin < len(order):
        fits = int(max_seconds * (1 + 1e-9) / durations[order[begin]])
        end = begin + max(1, min(fits, max_utterances))
        batches.append(order[begin:end])
        begin = end
    return batches


def _prefetched(
    results: Iterator[tuple[Position, Batch] | MayaError], pin_memory: bool
) -> Generator[tuple[Position, Batch], None, None]:
    """Run an iterator in a thread, a few items ahead; order and errors are kept. Closing stops the thread."""
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
    try:
        while (item := ready.get()) is not done:
            if isinstance(item, BaseException):
                raise item
            position, batch = item
            yield position, batch.pin_memory() if pin_memory else batch
    finally:
        stop.set()
        thread.join()
