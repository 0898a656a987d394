"""Columns of numbers with a value for each utterance: equal keys, ranks and sums, in little memory.

A text, speaker or file counts as a key of 64 bits, the same in every process. Two of 10^8 different keys are
equal with a probability of 0.03 %; where that would lose an utterance, the texts themselves are compared.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_AT_ONCE = 1 << 22  # rows that are sorted together
Keys = NDArray[np.uint64]


def key(*parts: object) -> int:
    """The key of some values."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def keys(values: Iterable[str]) -> Keys:
    """(n,) of texts."""
    return np.fromiter(map(key, values), np.uint64)


def labels_key(labels: Mapping[str, str]) -> int:
    """The key of the labels of an utterance."""
    return key(*(text for pair in sorted(labels.items()) for text in pair))


def mixed(*columns: NDArray[np.integer]) -> Keys:
    """(n,) keys of several columns together (the finaliser of splitmix64 after each)."""
    total = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        total = (total + np.uint64(0x9E3779B97F4A7C15)) ^ column.astype(np.uint64)
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total ^= total >> np.uint64(31)
    return total


def _divided(column: Keys) -> Iterator[NDArray[np.int64]]:
    """Row numbers, ascending, in lots of which each has all rows with the same keys."""
    lots = 1 + len(column) // _AT_ONCE
    for lot in range(lots):
        if lots == 1:
            yield np.arange(len(column))
            return
        some = (
            begin + np.flatnonzero(column[begin : begin + _AT_ONCE] % np.uint64(lots) == np.uint64(lot))
            for begin in range(0, len(column), _AT_ONCE)
        )
        yield np.concatenate([*some])


def occurs_twice(column: Keys) -> NDArray[np.bool_]:
    """(n,) whether another row has the same key."""
    result = np.zeros(len(column), np.bool_)
    for rows in _divided(column):
        _, inverse, counts = np.unique(column[rows], return_inverse=True, return_counts=True)
        result[rows] = counts[inverse] > 1
    return result


def first_rows(column: Keys) -> NDArray[np.int64]:
    """(n,) the first row with the same key."""
    result = np.empty(len(column), np.int64)
    for rows in _divided(column):
        _, first, inverse = np.unique(column[rows], return_index=True, return_inverse=True)
        result[rows] = rows[first][inverse]
    return result


def ranked(column: Keys) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """((n,) numbers of the keys from 0 in the order in which they first occur; the first row of each)."""
    first = first_rows(column)
    is_first = first == np.arange(len(column))
    numbers = (np.cumsum(is_first, dtype=np.int32) - 1)[first] if len(first) else first.astype(np.int32)
    return numbers, np.flatnonzero(is_first)


def running_sum(values: NDArray[np.float64], start: float = 0.0) -> float:
    """The sum, one value after the other, as a loop adds them."""
    for begin in range(0, len(values), _AT_ONCE):
        start = float(np.cumsum(np.concatenate([[start], values[begin : begin + _AT_ONCE]]))[-1])
    return start


def met_in(column: Keys, wanted: NDArray[np.bool_], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) whether a row that is `wanted` has the key of one that is `among`."""
    values = np.unique(column[wanted])
    met = np.zeros(len(values), np.bool_)
    for begin in range(0, len(column) if len(values) else 0, _AT_ONCE):
        some = column[begin : begin + _AT_ONCE][among[begin : begin + _AT_ONCE]]
        place = np.minimum(np.searchsorted(values, some), len(values) - 1)
        met[place[values[place] == some]] = True
    result = np.zeros(len(column), np.bool_)
    rows = np.flatnonzero(wanted)
    result[rows] = met[np.searchsorted(values, column[rows])] if len(rows) else False
    return result


def text_order(chunks: Callable[[], Iterator[pa.Array]], rows: int) -> NDArray[np.int64]:
    """(n,) row numbers in the order of their texts, by code points. chunks: gives the texts, which are gone
    over again for every four million."""
    if rows <= _AT_ONCE:
        column = pa.chunked_array(list(chunks()), pa.string())
        return pa.compute.sort_indices(column).to_numpy().astype(np.int64)
    sample = pa.concat_arrays([chunk.take(list(range(0, len(chunk), 997))) for chunk in chunks()]).sort()
    lots = 1 + rows // _AT_ONCE
    borders = [sample[len(sample) * lot // lots] for lot in range(1, lots)]
    parts = []
    for low, high in zip([None, *borders], [*borders, None], strict=True):
        texts, numbers, begin = [], [], 0
        for chunk in chunks():
            inside = np.ones(len(chunk), np.bool_)
            if low is not None:
                inside &= pa.compute.greater_equal(chunk, low).to_numpy(zero_copy_only=False)
            if high is not None:
                inside &= pa.compute.less(chunk, high).to_numpy(zero_copy_only=False)
            numbers.append(begin + np.flatnonzero(inside))
            texts.append(chunk.filter(pa.array(inside)))
            begin += len(chunk)
        order = pa.compute.sort_indices(pa.chunked_array(texts, pa.string())).to_numpy()
        parts.append(np.concatenate(numbers)[order])
    return np.concatenate(parts)
