"""Recordings read ahead of their decoding, in batches of like length.

Threads read (libsndfile and soxr let other threads run), so that the model never waits for a file. The window
bounds the audio in memory, whatever the number of recordings. The first batch begins as soon as its audio is
there: the result of the first file does not wait for the last.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from maya.data.loading.by_length import batches_by_length
from maya.data.measure.workers import cpus

T = TypeVar("T")
_SMALLER = 3  # halvings: the first batch has an eighth of the audio of later ones
_MOST_READERS = 4  # more threads only hold more files in memory: one reads hundreds of seconds a second


@dataclass(kw_only=True, slots=True, eq=False)
class Track:
    """One channel of a recording while it is transcribed.

    place: of the recording among all, from 0. channel: from 1; None for the average of all. channels: tracks
    of the same recording. seconds: of audio. pieces: samples (N,) of each part that is decoded by itself;
    None once it was. starts: seconds from the beginning of the recording. error: why it cannot be
    transcribed; empty if it can.
    """

    place: int
    id: str = ""
    language: str | None = None
    channel: int | None = None
    channels: int = 1
    seconds: float = 0.0
    pieces: list[Tensor | None] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slot:
    """A piece that waits for its decoding. order: of arrival. samples: its length."""

    track: Track
    index: int
    order: int
    samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSize:
    """batch: samples in a batch, padding counted. ahead: samples read and not yet decoded, at least a batch.
    Both may be exceeded by one recording that is longer, and `ahead` by one recording of each reader."""

    batch: float
    ahead: float


def read_in_batches(
    recordings: Iterable[T], read: Callable[[T, int], list[Track]], size: WindowSize
) -> Iterator[tuple[list[Track], list[Slot]]]:
    """Pairs of tracks without any piece, which are done, and the next batch; either may be empty.

    read: called in a thread with a recording and its place; what it raises is raised here. A batch has the
    piece that waits longest, and those nearest to it in length.
    """
    window = _Window(size)
    items = enumerate(recordings)
    readers = min(_MOST_READERS, max(2, cpus()))
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    running: set[Future[list[Track]]] = set()
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < 2 * readers and window.has_room(len(running)):
                if (item := next(items, None)) is None:
                    exhausted = True
                else:
                    running.add(pool.submit(read, item[1], item[0]))
            # With enough for a batch, take only what is ready; without it, wait for the next.
            ready, running = wait(running, 0 if window.full_batch else None, FIRST_COMPLETED)
            tracks = sorted((t for future in ready for t in future.result()), key=lambda t: t.place)
            done = [track for track in tracks if not window.add(track)]
            batch = window.take() if window.full_batch or not (running or not exhausted) else []
            if done or batch:
                yield done, batch
            elif exhausted and not running:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Window:
    """The pieces that were read and wait for their decoding."""

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
        """Whether another recording may be read. Those being read count as the mean of those that were."""
        mean = self.read / self.count if self.count else 0
        return self.samples + running * mean < max(self.size.ahead, self.size.batch)

    def add(self, track: Track) -> bool:
        """Whether the track has pieces that now wait."""
        for index, piece in enumerate(track.pieces):
            assert piece is not None
            self.slots.append(Slot(track=track, index=index, order=self.count, samples=len(piece)))
            self.count += 1
            self.samples += len(piece)
            self.read += len(piece)
        return bool(track.pieces)

    def take(self) -> list[Slot]:
        """The batch of the piece that waits longest; empty if none waits."""
        if not self.slots:
            return []
        first = min(range(len(self.slots)), key=lambda i: self.slots[i].order)
        batches = batches_by_length([slot.samples for slot in self.slots], self.batch)
        self.batch = min(2 * self.batch, self.size.batch)
        chosen = next(batch for batch in batches if first in batch)
        slots = [self.slots[i] for i in chosen]
        for i in sorted(chosen, reverse=True):
            del self.slots[i]
        self.samples -= sum(slot.samples for slot in slots)
        return slots
