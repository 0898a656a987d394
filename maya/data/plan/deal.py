"""Dealing batches to ranks: shuffled steps of equal cost, and the rest when the number of ranks changes."""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from maya.data.plan.epoch import DEAL, Batches


class Deal:
    """The steps of `ranks` ranks through some batches. Each batch is in one step.

    Batches next to each other in the order of cost form a step, and steps are shuffled. What does not fill a
    step comes last, in batches that are halved until every rank has one; `repeated` of them are given twice
    where all are single utterances.

    batches: those dealt, possibly divided; steps: (steps, ranks) index into them; repeated: a count.
    """

    def __init__(self, batches: Batches, ranks: int, rng: np.random.Generator) -> None:
        order = np.argsort(batches.cost, kind="stable")
        last = _last(batches.last - batches.first, ranks)
        whole = order[~np.isin(order, last)] if len(last) else order
        steps = _turned(whole.reshape(-1, ranks))[rng.permutation(len(whole) // ranks)]
        divided = _divided(batches.take(last), ranks)
        self.repeated = -len(divided.first) % ranks
        tail = np.argsort(divided.cost, kind="stable")
        tail = np.concatenate([tail, np.resize(tail, self.repeated)]) + len(batches.first)
        self.batches = Batches(*(np.concatenate(pair) for pair in zip(batches, divided, strict=True)))
        self.steps = np.concatenate([steps, _turned(tail.reshape(-1, ranks))])

    def remaining(self, done: int) -> Batches:
        """The batches that remain after so many steps; one that has been trained on is not among them."""
        trained = self.batches.first[np.unique(self.steps[:done])]
        remaining = self.batches.take(np.unique(self.steps[done:]))
        return remaining.take(np.flatnonzero(~np.isin(remaining.first, trained)))

    def of_utterances(self, batches: Batches) -> "Deal":
        """The same steps through `batches`, which count utterances instead of rows of them."""
        other = copy(self)
        other.batches = batches
        return other


def deal(
    batches: Batches, ranks: int, before: Sequence[tuple[int, int]], seed: int, epoch: int
) -> Deal | None:
    """The steps of an epoch, or of what is left of it, None if nothing, after `before`: (ranks, steps) of
    earlier stretches."""
    for stage, (others, done) in enumerate(before):
        batches = Deal(batches, others, _random(seed, epoch, stage)).remaining(done)
        if not len(batches.first):
            return None
    return Deal(batches, ranks, _random(seed, epoch, len(before)))


def _random(seed: int, epoch: int, stage: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, DEAL, stage])


def _turned(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rotate each step so that the cheapest batch is not always on the same rank."""
    count, ranks = steps.shape
    return np.take_along_axis(steps, (np.arange(ranks) + np.arange(count)[:, None]) % ranks, axis=1)


def _last(sizes: NDArray[np.int64], ranks: int) -> NDArray[np.int64]:
    """The batches, those with most utterances, that are to be divided so that the number of all becomes a
    multiple of `ranks`: as few as can be, or all."""
    if len(sizes) % ranks == 0:
        return np.zeros(0, np.int64)
    largest = np.argsort(-sizes, kind="stable")
    enough = np.arange(len(sizes) % ranks, len(sizes) + 1, ranks)  # so many of them ...
    fits = (
        np.cumsum(sizes[largest])[enough - 1] >= enough + ranks - len(sizes) % ranks
    )  # ... give a step more
    return largest[: enough[int(np.argmax(fits))]] if fits.any() else largest


def _divided(batches: Batches, ranks: int) -> Batches:
    """Batches halved, the largest first, until their number is a multiple of `ranks` or all are single."""
    pieces = list(zip(*(column.tolist() for column in batches), strict=True))
    while len(pieces) % ranks:
        largest = max(range(len(pieces)), key=lambda b: pieces[b][1] - pieces[b][0])
        first, last, cost = pieces[largest]
        if last - first == 1:
            break
        middle = (first + last) // 2
        share = (middle - first) / (last - first)
        pieces[largest : largest + 1] = [(first, middle, cost * share), (middle, last, cost * (1 - share))]
    columns = np.array(pieces, dtype=np.float64).reshape(-1, 3).T
    return Batches(columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2])
