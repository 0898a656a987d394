"""Recordings read ahead of their decoding, in batches of like length.

Threads read (libsndfile and soxr let other threads run), so that the model never waits for a file. The window
bounds the audio in memory, whatever the number of recordings and their length: a long one is read piece by
piece. The first batch begins as soon as its audio is there: the first result does not wait for the last file.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from maya.data.measure.workers import cpus

T = TypeVar("T")
_SMALLER = 3  # halvings: the first batch has an eighth of the audio of later ones
_STEPS = 4  # of a batch: so much of a long recording is read before another one may be
_MOST_READERS = 4  # more threads only hold more files in memory: one reads hundreds of seconds a second


@dataclass(kw_only=True, slots=True, eq=False)
class Track:
    """One channel of a recording while it is transcribed.

    place: of the recording among all, from 0. channel: from 1; None for the average of all. channels: tracks
    of the same recording. seconds: of audio read so far. pieces: their number so far. error: why it cannot be
    transcribed; empty if it can.
    """

    place: int
    id: str = ""
    language: str | None = None
    channel: int | None = None
    channels: int = 1
    seconds: float = 0.0
    pieces: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slot:
    """A piece of a track that waits for its decoding: samples (N,). index: of the piece in its track. piece:
    what the reader knows of it."""

    track: Track
    index: int
    samples: Tensor
    piece: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSize:
    """batch: samples in a batch, padding counted. ahead: samples read and not yet decoded, at least a batch.
    A single piece may be longer, and `ahead` may be exceeded by what the readers are reading. in_order: a
    batch has one piece of a track, and its pieces come in their order."""

    batch: float
    ahead: float
    in_order: bool = False


Reading = Iterator[Slot | Track]
"""The slots of a recording in order, each track after its last slot."""


def read_in_batches(
    recordings: Iterable[T], read: Callable[[T, int], Reading], size: WindowSize
) -> Iterator[tuple[list[Track], list[Slot]]]:
    """Pairs of tracks that were read to their end, and the next batch; either may be empty.

    read: called with a recording and its place, and iterated by one thread at a time; what it raises is
    raised here. A batch has the piece that waits longest, and those nearest to it in length.
    """
    window = _WaitingSlots(size)
    items = enumerate(recordings)
    readers = min(_MOST_READERS, max(2, cpus()))
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    running: dict[Future[_ReadingStep], int] = {}
    paused: deque[tuple[int, Reading]] = deque()
    exhausted = False
    try:
        while True:
            while len(running) < 2 * readers and window.has_room(len(running)):
                if paused:
                    place, reading = paused.popleft()
                elif (item := None if exhausted else next(items, None)) is not None:
                    place, reading = item[0], read(item[1], item[0])
                else:
                    exhausted = True
                    break
                running[pool.submit(_step, reading, size.batch / _STEPS)] = place
            # With enough for a batch, take only what is ready; without it, wait for the next.
            ready = wait(running, 0 if window.full_batch else None, FIRST_COMPLETED).done
            done = []
            for place, future in sorted(((running.pop(f), f) for f in ready), key=lambda pair: pair[0]):
                step = future.result()
                window.add(step.slots)
                done += step.tracks
                if step.rest is not None:
                    paused.append((place, step.rest))
            idle = exhausted and not running and not paused
            batch = window.take() if window.full_batch or idle else []
            if done or batch:
                yield done, batch
            elif idle:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _ReadingStep:
    """What a step of reading gave, and the reading itself if it has not come to its end."""

    slots: list[Slot]
    tracks: list[Track]
    rest: Reading | None


@torch.inference_mode()
def _step(reading: Reading, samples: float) -> _ReadingStep:
    """Read on until there are so many samples. Runs in a thread."""
    slots: list[Slot] = []
    tracks: list[Track] = []
    total = 0
    for item in reading:
        if isinstance(item, Track):
            tracks.append(item)
            continue
        slots.append(item)
        total += len(item.samples)
        if total >= samples:
            return _ReadingStep(slots, tracks, reading)
    return _ReadingStep(slots, tracks, None)


class _WaitingSlots:
    """The pieces that were read and wait for their decoding, in the order of their arrival."""

    def __init__(self, size: WindowSize) -> None:
        self.size = size
        self.slots: list[Slot] = []
        self.samples = self.read = self.count = 0
        # The first batches are small, so that the first results come at once.
        self.batch = size.batch / 2**_SMALLER

    @property
    def full_batch(self) -> bool:
        """Whether as much waits as the next batch may hold."""
        return self.samples >= self.batch

    def has_room(self, running: int) -> bool:
        """Whether more may be read. The steps that are running count as the mean of those before."""
        mean = self.read / self.count if self.count else 0
        return self.samples + running * mean < max(self.size.ahead, self.size.batch)

    def add(self, slots: list[Slot]) -> None:
        """The slots of a step."""
        self.slots += slots
        samples = sum(len(slot.samples) for slot in slots)
        self.samples += samples
        self.read += samples
        self.count += 1

    def take(self) -> list[Slot]:
        """The batch of the piece that waits longest; empty if none waits."""
        if not self.slots:
            return []
        numbers = [*range(len(self.slots))]
        if self.size.in_order:  # the first of each track; those of a track wait in their order
            numbers = sorted({slot.track: i for i, slot in reversed([*enumerate(self.slots)])}.values())
        lengths = [len(self.slots[i].samples) for i in numbers]
        chosen = {numbers[i] for i in batch_of_first(lengths, self.batch)}
        self.batch = min(2 * self.batch, self.size.batch)
        taken = [slot for i, slot in enumerate(self.slots) if i in chosen]
        self.slots = [slot for i, slot in enumerate(self.slots) if i not in chosen]
        self.samples -= sum(len(slot.samples) for slot in taken)
        return taken


def batch_of_first(lengths: Sequence[int], most: float) -> list[int]:
    """The items of a batch that has item 0, and of all such batches the least padding.

    A batch is a run of the items sorted by length, of at most `most` with padding, or a single longer item.
    """
    sizes = np.asarray(lengths, dtype=np.float64)
    order = np.argsort(-sizes, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(sizes[order])])
    place = int(np.flatnonzero(order == 0)[0])
    best, best_share = [0], 0.0
    for begin in range(place, -1, -1):
        longest = sizes[order[begin]]
        fits = int(most * (1 + 1e-9) / longest) if longest > 0 else len(order)
        end = min(begin + max(1, fits), len(order))
        if end <= place:
            break
        audio = total[end] - total[begin]
        share = audio / max(most, audio) if longest > 0 else 1.0
        if share > best_share:
            best, best_share = order[begin:end].tolist(), share
    return best
