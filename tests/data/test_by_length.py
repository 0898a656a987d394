"""Batches by length, for loaders (`maya.data.loading.by_length`) and for `transcribe`."""

import numpy as np

from maya.data.loading.by_length import batches_by_length


def test_batches_hold_every_item_once_longest_first_and_within_the_limits() -> None:
    lengths = np.random.default_rng(0).uniform(0.1, 20, 200)
    batches = batches_by_length(lengths, 60.0, 7)
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(200)) and [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        padded = lengths[batch[0]] * len(batch)
        assert padded <= 60.0 * (1 + 1e-9) and len(batch) <= 7
        assert not following or len(batch) == 7 or lengths[batch[0]] * (len(batch) + 1) > 60.0


def test_long_items_are_batched_alone_and_empty_items_are_allowed() -> None:
    assert batches_by_length([5, 100, 5, 0, 0], 10) == [[1], [0, 2], [3, 4]]
    assert batches_by_length([], 10) == []
