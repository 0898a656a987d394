"""Recordings are read ahead within bounds, and every piece is decoded once."""

import random
import threading
from collections.abc import Iterator

import pytest
import torch

from maya.decode.long.sliding_window import (
    Reading,
    Slot,
    Track,
    WindowSize,
    batch_of_first,
    read_in_batches,
)

SIZE = WindowSize(batch=1000, ahead=4000)


class LengthsReader:
    """Reads recordings that are lists of piece lengths, and counts the samples that it gave out."""

    def __init__(self) -> None:
        self.given = 0
        self.lock = threading.Lock()

    def __call__(self, lengths: list[int], place: int) -> Reading:
        track = Track(place=place)
        for index, length in enumerate(lengths):
            with self.lock:
                self.given += length
            track.pieces += 1
            yield Slot(track=track, index=index, samples=torch.zeros(length))
        yield track


def test_each_piece_comes_once_in_batches_within_the_limit() -> None:
    rng = random.Random(0)
    recordings = [[rng.randrange(1, 400) for _ in range(rng.randrange(4))] for _ in range(200)]
    recordings[50] = [300] * 100  # a long one
    recordings[70] = [2500]  # a piece longer than a batch
    reader, decoded, largest = LengthsReader(), 0, 0
    seen, ended = set(), []
    for tracks, batch in read_in_batches(recordings, reader, SIZE):
        ended += [track.place for track in tracks]
        if batch:
            longest = max(len(slot.samples) for slot in batch)
            assert len(batch) == 1 or longest * len(batch) <= SIZE.batch
        for slot in batch:
            assert (slot.track.place, slot.index) not in seen
            seen.add((slot.track.place, slot.index))
            decoded += len(slot.samples)
        largest = max(largest, reader.given - decoded)
    assert seen == {(place, i) for place, lengths in enumerate(recordings) for i in range(len(lengths))}
    assert sorted(ended) == list(range(200))
    assert largest <= SIZE.ahead + 8 * SIZE.batch  # what the readers may hold at the end of the window


def test_results_come_before_the_end_of_the_input() -> None:
    taken = 0

    def endless() -> Iterator[list[int]]:
        nonlocal taken
        while True:
            taken += 1
            yield [200]

    batches = read_in_batches(endless(), LengthsReader(), SIZE)
    places = [slot.track.place for _ in range(20) for slot in next(batches)[1]]
    assert 0 in places and taken < 200
    batches.close()  # type: ignore[attr-defined]


def test_the_first_batch_is_small() -> None:
    first = next(batch for _, batch in read_in_batches([[50]] * 100, LengthsReader(), SIZE) if batch)
    assert sum(len(slot.samples) for slot in first) <= SIZE.batch / 8


def test_an_error_of_the_reader_is_raised() -> None:
    def read(_: int, place: int) -> Reading:
        yield Track(place=place)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        list(read_in_batches(range(3), read, SIZE))


def test_batch_of_first_has_the_first_and_little_padding() -> None:
    assert batch_of_first([10, 100, 9, 90, 11], 33) == [4, 0, 2]
    assert batch_of_first([500, 1, 1], 100) == [0]
    assert sorted(batch_of_first([0, 0, 5], 10)) in ([0, 1], [0, 1, 2])
    rng = random.Random(1)
    for _ in range(200):
        lengths = [rng.randrange(1, 100) for _ in range(rng.randrange(1, 40))]
        batch = batch_of_first(lengths, 150)
        assert 0 in batch and (len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 150)
