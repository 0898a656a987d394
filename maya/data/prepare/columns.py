"""Columns of numbers with a value for each utterance: equal keys, ranks and sums, in little memory.

Long columns lie in files (see Scratch), and everything here goes over them some millions of rows at a time:
what must fit into memory does not grow with the number of utterances, but for some bytes a key that differs.

A text, speaker or file counts as a key of 64 bits, the same in every process. Two of 10^8 different keys are
equal with a probability of 0.03 %; where that would lose an utterance, the texts themselves are compared.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from maya.errors import MayaError

_AT_ONCE = 1 << 21  # rows that are sorted together
_IN_MEMORY = 1 << 24  # bytes of a column that need no file
Keys = NDArray[np.uint64]
Numbers = NDArray[np.integer]


class Scratch:
    """Columns of a value for each utterance. Long ones lie in files of `folder` that have no name and vanish
    with them: the system writes their pages out when memory is short. Without a folder all are in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def empty(self, rows: int, kind: DTypeLike) -> NDArray[Any]:
        """(rows,) of any values. Raises MayaError where the disk has no room for them."""
        size = rows * np.dtype(kind).itemsize
        if self.folder is None or size < max(_IN_MEMORY, 1):
            return np.empty(rows, kind)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.folder) as file:
                if hasattr(os, "posix_fallocate"):  # a full disk would end the process when a page is written
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                return np.asarray(np.memmap(file, kind, "r+", shape=rows))
        except OSError as error:
            needed = f"{size // 1_000_000} MB for a column of {rows} utterances"
            raise MayaError(f"{self.folder} has no room for {needed}: {error.strerror}") from None

    def full(self, rows: int, kind: DTypeLike, value: int) -> NDArray[Any]:
        """(rows,) of this value."""
        result = self.empty(rows, kind)
        result[:] = value
        return result

    def joined(self, parts: Iterable[NDArray[Any]], rows: int, kind: DTypeLike) -> NDArray[Any]:
        """(rows,) the values of all parts; fewer where these have fewer."""
        result, begin = self.empty(rows, kind), 0
        for part in parts:
            result[begin : begin + len(part)] = part
            begin += len(part)
        return result[:begin]

    def taken(self, column: NDArray[Any], rows: Numbers) -> NDArray[Any]:
        """(len(rows),) the values of these rows."""
        return self.joined((column[rows[some]] for some in blocks(len(rows))), len(rows), column.dtype)

    def chosen(self, column: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """(mask.sum(),) the values of the rows that are True in `mask`."""
        parts = (column[some][mask[some]] for some in blocks(len(column)))
        return self.joined(parts, int(np.count_nonzero(mask)), column.dtype)

    def where(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(mask.sum(),) the numbers of the rows that are True in `mask`."""
        parts = (some.start + np.flatnonzero(mask[some]) for some in blocks(len(mask)))
        return self.joined(parts, int(np.count_nonzero(mask)), np.int64)


MEMORY = Scratch()


def blocks(rows: int) -> Iterator[slice]:
    """Slices of some million rows."""
    for begin in range(0, rows, _AT_ONCE):
        yield slice(begin, min(begin + _AT_ONCE, rows))


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


def mixed(*columns: Numbers, scratch: Scratch = MEMORY) -> Keys:
    """(n,) keys of several columns together (the finaliser of splitmix64 after each)."""
    rows = len(columns[0])
    parts = (_mixed([column[some] for column in columns]) for some in blocks(rows))
    return scratch.joined(parts, rows, np.uint64)


def _mixed(columns: Sequence[Numbers]) -> Keys:
    total = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        total = (total + np.uint64(0x9E3779B97F4A7C15)) ^ column.astype(np.uint64)
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total ^= total >> np.uint64(31)
    return total


def _divided(column: Numbers) -> Iterator[NDArray[np.int64]]:
    """Row numbers, ascending, in lots of which each has all rows with the same keys."""
    lots = 1 + len(column) // _AT_ONCE
    for lot in range(lots):
        if lots == 1:
            yield np.arange(len(column))
            return
        numbers = (column[some].astype(np.uint64) % np.uint64(lots) for some in blocks(len(column)))
        yield np.concatenate(
            [_AT_ONCE * place + np.flatnonzero(some == np.uint64(lot)) for place, some in enumerate(numbers)]
        )


def occurs_twice(column: Numbers) -> NDArray[np.bool_]:
    """(n,) whether another row has the same key."""
    result = np.zeros(len(column), np.bool_)
    for rows in _divided(column):
        _, inverse, counts = np.unique(column[rows], return_inverse=True, return_counts=True)
        result[rows] = counts[inverse] > 1
    return result


def first_rows(column: Numbers, scratch: Scratch = MEMORY) -> NDArray[np.int64]:
    """(n,) the first row with the same key."""
    result = scratch.empty(len(column), np.int64)
    for rows in _divided(column):
        _, first, inverse = np.unique(column[rows], return_index=True, return_inverse=True)
        result[rows] = rows[first][inverse]
    return result


def is_first(first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether a row is the first with its key. first: see first_rows."""
    result = np.empty(len(first), np.bool_)
    for some in blocks(len(first)):
        result[some] = first[some] == np.arange(some.start, some.stop)
    return result


def ranked(column: Numbers, scratch: Scratch = MEMORY) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """((n,) numbers of the keys from 0 in the order in which they first occur; the first row of each)."""
    first, count = first_rows(column, scratch), 0
    new, numbers = is_first(first), scratch.empty(len(column), np.int32)
    for some in blocks(len(column)):
        numbers[some] = count + np.cumsum(new[some], dtype=np.int32) - 1
        count += int(np.count_nonzero(new[some]))
    return scratch.taken(numbers, first), scratch.where(new)


def first_places(codes: Numbers, count: int, scratch: Scratch = MEMORY) -> NDArray[np.int64]:
    """(count,) the first row of each code; the number of rows for a code that none has."""
    result = scratch.full(count, np.int64, len(codes))
    for some in reversed([*blocks(len(codes))]):
        result[codes[some][::-1]] = np.arange(some.stop - 1, some.start - 1, -1)  # the last assigned counts
    return result


def counted(codes: Numbers, count: int, scratch: Scratch = MEMORY) -> NDArray[np.int32]:
    """(count,) the number of rows of each code."""
    result = scratch.full(count, np.int32, 0)
    for some in blocks(len(codes)):
        np.add.at(result, codes[some], 1)
    return result


def summed(
    codes: Numbers, values: NDArray[np.float64], count: int, scratch: Scratch = MEMORY
) -> NDArray[np.float64]:
    """(count,) the sums of each code, of one value after the other."""
    result = scratch.full(count, np.float64, 0)
    for some in blocks(len(codes)):
        np.add.at(result, codes[some], values[some])
    return result


def running_sum(
    values: NDArray[np.float64], start: float = 0.0, mask: NDArray[np.bool_] | None = None
) -> float:
    """The sum, one value after the other, as a loop adds them; of the rows of `mask` only, if it is given."""
    for some in blocks(len(values)):
        part = values[some] if mask is None else values[some][mask[some]]
        start = float(np.cumsum(np.concatenate([[start], part]))[-1])
    return start


def sorted_by(codes: Numbers, count: int, rows: Numbers, scratch: Scratch = MEMORY) -> NDArray[np.int64]:
    """(n,) the rows in the order of their codes, those of a code as they were."""
    result = scratch.empty(len(rows), np.int64)
    ends = np.cumsum(counted(codes, count))
    place = ends - counted(codes, count)
    for some in blocks(len(rows)):
        order = np.argsort(codes[some], kind="stable")
        own, sizes = codes[some][order], np.bincount(codes[some], minlength=count)
        begin = np.cumsum(sizes) - sizes
        result[place[own] + np.arange(len(own)) - begin[own]] = rows[some][order]
        place = place + sizes
    return result


def met_in(column: Numbers, wanted: NDArray[np.bool_], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) whether a row that is `wanted` has the key of one that is `among`."""
    values = np.unique(column[wanted])
    met = np.zeros(len(values), np.bool_)
    for rows in blocks(len(column) if len(values) else 0):
        some = column[rows][among[rows]]
        place = np.minimum(np.searchsorted(values, some), len(values) - 1)
        met[place[values[place] == some]] = True
    result = np.zeros(len(column), np.bool_)
    for rows in blocks(len(column) if len(values) else 0):
        here = rows.start + np.flatnonzero(wanted[rows])
        result[here] = met[np.searchsorted(values, column[here])]
    return result


def text_order(
    chunks: Callable[[], Iterator[pa.Array]], rows: int, scratch: Scratch = MEMORY
) -> NDArray[np.int64]:
    """(n,) row numbers in the order of their texts, by code points. chunks: gives the texts, which are gone
    over again for every two million, unless they are in order already."""
    if rows <= _AT_ONCE:
        column = pa.chunked_array(list(chunks()), pa.string())
        return pa.compute.sort_indices(column).to_numpy().astype(np.int64)
    samples, last, ordered = [], None, True
    for chunk in filter(len, chunks()):
        samples.append(chunk.take(list(range(0, len(chunk), 997))))
        ordered = ordered and (last is None or last <= chunk[0].as_py().encode())
        ordered = ordered and bool(pa.compute.all(pa.compute.less_equal(chunk[:-1], chunk[1:])).as_py())
        last = chunk[-1].as_py().encode()
    if ordered:
        return scratch.joined((np.arange(some.start, some.stop) for some in blocks(rows)), rows, np.int64)
    sample = pa.concat_arrays(samples).sort()
    lots = 1 + rows // _AT_ONCE
    borders = [sample[len(sample) * lot // lots] for lot in range(1, lots)]
    parts = (
        _texts_between(chunks(), low, high)
        for low, high in zip([None, *borders], [*borders, None], strict=True)
    )
    return scratch.joined(parts, rows, np.int64)


def _texts_between(chunks: Iterable[pa.Array], low: Any, high: Any) -> NDArray[np.int64]:
    """The row numbers of the texts from `low` to `high`, in the order of these; None is no border."""
    texts, numbers, begin = [], [], 0
    for chunk in chunks:
        inside = np.ones(len(chunk), np.bool_)
        if low is not None:
            inside &= pa.compute.greater_equal(chunk, low).to_numpy(zero_copy_only=False)
        if high is not None:
            inside &= pa.compute.less(chunk, high).to_numpy(zero_copy_only=False)
        numbers.append(begin + np.flatnonzero(inside))
        texts.append(chunk.filter(pa.array(inside)))
        begin += len(chunk)
    order = pa.compute.sort_indices(pa.chunked_array(texts, pa.string())).to_numpy()
    return np.concatenate(numbers)[order]
