"""Utterances whose audio overlaps: spans of one recording that several utterances cover."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from maya.data.probe import Probed

_SMALLEST_SECONDS = 0.05  # less than that is rounding
# Utterances that share more than this are kept in one part. Segments are often padded with some silence, so
# that neighbours overlap a little: a recording would then be one chain that cannot be split.
_SECONDS_TOGETHER = 0.5
_SHARE_TOGETHER = 0.5  # of the shorter one


class Overlap(NamedTuple):
    """Two utterances, in the order they begin, and the seconds that both cover."""

    first: Probed
    second: Probed
    seconds: float

    @property
    def together(self) -> bool:
        """Whether a split must keep both in one part."""
        shorter = min(self.first.seconds, self.second.seconds)
        return self.seconds > min(_SECONDS_TOGETHER, _SHARE_TOGETHER * shorter)


def overlaps(probed: Iterable[Probed]) -> Iterator[Overlap]:
    """Every two utterances that cover the same span of the same channel of a recording.

    An utterance without a channel covers all of them.
    """
    recordings: dict[tuple[str, int | None], list[Probed]] = defaultdict(list)
    real = cache(os.path.realpath)
    for one in probed:
        recordings[real(one.path), one.row.offset].append(one)
    for utterances in recordings.values():
        active: list[Probed] = []
        for one in sorted(utterances, key=_begin) if len(utterances) > 1 else ():
            active = [other for other in active if _begin(other) + other.seconds > _begin(one)]
            for other in active:
                end = min(_begin(other) + other.seconds, _begin(one) + one.seconds)
                shared = end - _begin(one)
                if shared > _SMALLEST_SECONDS and _same_channel(other, one):
                    yield Overlap(other, one, shared)
            active.append(one)


def overlap_groups(found: Sequence[Overlap]) -> dict[str, str]:
    """By id, the name of the group of an utterance: all that are to be kept in one part have the same."""
    group: dict[str, str] = {}

    def root(id: str) -> str:
        while (parent := group.setdefault(id, id)) != id:
            group[id] = id = group[parent]
        return id

    for overlap in found:
        if overlap.together:
            first, second = sorted((root(overlap.first.row.id), root(overlap.second.row.id)))
            group[second] = first
    return {id: root(id) for id in group}


def _begin(one: Probed) -> float:
    return one.row.start or 0.0


def _same_channel(a: Probed, b: Probed) -> bool:
    return a.row.channel == b.row.channel or a.row.channel is None or b.row.channel is None
