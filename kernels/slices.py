"""Slices of a range, to compute in blocks."""

from collections.abc import Iterator


def slices(n: int, step: int) -> Iterator[slice]:
    """Consecutive slices that cover 0..n, each with at most max(step, 1) elements."""
    step = max(1, step)
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))
