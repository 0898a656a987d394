"""The utterances sorted once by size: a cell holds those of about the same duration and number of tokens.

Within a cell rows stand language by language. A cell is about 1 % wide in duration and, where a cap counts
tokens, 9 % wide in tokens, so that there are some hundreds or thousands of cells however many utterances.
Its logarithms are the leading bits of floating-point numbers, which are the same on every processor.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SECONDS_BITS = 6  # of the mantissa: 64 steps from 1 s to 2 s, and so on
_TOKENS_BITS = 3
_CHUNK = 1 << 20  # rows sorted at once: bounds the memory of argsort, which gives 8 bytes per row


@dataclass(frozen=True, slots=True)
class Cells:
    """C cells of L languages."""

    rows: NDArray[np.int32]  # (n,) utterance indices, cell by cell, in each language by language
    starts: NDArray[np.int64]  # (C * L + 1,) where each cell and language begins in `rows`
    counts: NDArray[np.int64]  # (C, L) utterances
    seconds: NDArray[np.float64]  # (C,) longest duration
    tokens: NDArray[np.int64]  # (C,) most tokens


def make_cells(
    durations: NDArray[np.float32], tokens: NDArray[np.int32], langs: NDArray[np.int16],
    num_langs: int, by_tokens: bool, seed: int,
) -> Cells:  # fmt: skip
    """Sort n utterances into cells; their order within a cell and language is random.

    langs: (n,) 0 ... num_langs - 1. Takes about 8 bytes per utterance more than it returns, for a time.
    """
    keys = _keys(durations, tokens, by_tokens)
    used = np.flatnonzero(_bincount(keys))
    number = np.zeros(used[-1] + 1, np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    for some in _chunks(len(keys)):
        keys[some] = number[keys[some]] * num_langs + langs[some]
    counts = np.zeros(len(used) * num_langs, np.int64)
    counts[: keys.max() + 1] = _bincount(keys)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = _sorted_rows(keys, starts, seed)
    heads = starts[:-1:num_langs]
    return Cells(
        rows=rows,
        starts=starts,
        counts=counts.reshape(-1, num_langs),
        seconds=np.maximum.reduceat(durations[rows], heads).astype(np.float64),
        tokens=np.maximum.reduceat(tokens[rows], heads).astype(np.int64),
    )


def log_bins(values: ArrayLike, bits: int) -> NDArray[np.int32]:
    """Numbers of the bins, 2^bits per octave, in which positive values lie."""
    return np.asarray(values, np.float32).view(np.int32) >> (23 - bits)


def seconds_bins(seconds: ArrayLike) -> NDArray[np.int32]:
    return log_bins(seconds, _SECONDS_BITS)


def _keys(durations: NDArray[np.float32], tokens: NDArray[np.int32], by_tokens: bool) -> NDArray[np.int32]:
    """(n,) keys that grow with the duration and, for one duration, with tokens."""
    keys = seconds_bins(durations)
    keys -= keys.min()
    if by_tokens:
        lowest, highest = (int(log_bins(float(u) + 1, _TOKENS_BITS)) for u in (tokens.min(), tokens.max()))
        keys *= highest - lowest + 1
        for some in _chunks(len(keys)):
            keys[some] += log_bins(tokens[some].astype(np.float32) + 1, _TOKENS_BITS) - lowest
    return keys


def _sorted_rows(keys: NDArray[np.int32], starts: NDArray[np.int64], seed: int) -> NDArray[np.int32]:
    """(n,) rows in the order of their keys 0, 1, ..., which begin at `starts`; equal keys at random."""
    shuffled = np.arange(len(keys), dtype=np.int32)
    np.random.default_rng(seed).shuffle(shuffled)
    rows = np.empty(len(keys), np.int32)
    free = starts[:-1].copy()  # where the next row of each key goes
    for some in _chunks(len(keys)):
        chunk_keys = keys[shuffled[some]]
        order = np.argsort(chunk_keys, kind="stable")
        distinct, counts = np.unique(chunk_keys, return_counts=True)
        begins = np.cumsum(counts) - counts
        rows[np.arange(len(chunk_keys)) + np.repeat(free[distinct] - begins, counts)] = shuffled[some][order]
        free[distinct] += counts
    return rows


def _bincount(keys: NDArray[np.int32]) -> NDArray[np.int64]:
    """np.bincount, which takes 8 bytes per key, a chunk at a time."""
    length = int(keys.max()) + 1
    counts = np.zeros(length, np.int64)
    for some in _chunks(len(keys)):
        counts += np.bincount(keys[some], minlength=length)
    return counts


def _chunks(n: int) -> list[slice]:
    return [slice(begin, min(begin + _CHUNK, n)) for begin in range(0, n, _CHUNK)]
