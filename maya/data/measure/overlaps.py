"""Utterances whose audio overlaps: spans of one recording that several utterances cover."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from maya.data.measure.entry import Entry

_SMALLEST_SECONDS = 0.05  # less than that is rounding
# Utterances that share more than this are kept in one part. Segments are often padded with some silence, so
# that neighbours overlap a little: a recording would then be one chain that cannot be split.
_SECONDS_TOGETHER = 0.5
_SHARE_TOGETHER = 0.5  # of the shorter one
_ALIKE = 16


class Overlap(NamedTuple):
    """Two utterances, in the order they begin, and the seconds that both cover."""

    first: Entry
    second: Entry
    seconds: float

    @property
    def together(self) -> bool:
        """Whether a split must keep both in one part."""
        shorter = min(self.first.duration, self.second.duration)
        return self.seconds > min(_SECONDS_TOGETHER, _SHARE_TOGETHER * shorter)


def overlaps(entries: Iterable[Entry]) -> Iterator[Overlap]:
    """Every two utterances that cover the same span of the same channel of a recording.

    An utterance without a channel covers all of them. Of more than 16 that cover the very same span, each is
    paired with the first 16.
    """
    recordings: dict[tuple[str, int | None], list[Entry]] = defaultdict(list)
    for utterance in entries:
        recordings[utterance.path, utterance.offset].append(utterance)
    for utterances in recordings.values():
        active: list[Entry] = []
        alike: Counter[tuple[float, float, int | None]] = Counter()
        for utterance in sorted(utterances, key=_begin) if len(utterances) > 1 else ():
            begin = _begin(utterance)
            active = [earlier for earlier in active if _end(earlier) > begin]
            for earlier in active:
                shared_seconds = min(_end(earlier), _end(utterance)) - begin
                if shared_seconds > _SMALLEST_SECONDS and _same_channel(earlier, utterance):
                    yield Overlap(earlier, utterance, shared_seconds)
            span = begin, _end(utterance), utterance.channel
            alike[span] += 1
            if alike[span] <= _ALIKE:
                active.append(utterance)


def overlap_groups(shared: Sequence[Overlap]) -> dict[str, str]:
    """By id, the name of the group of an utterance: all that are to be kept in one part have the same."""
    group: dict[str, str] = {}

    def root(id: str) -> str:
        while (parent := group.setdefault(id, id)) != id:
            group[id] = id = group[parent]
        return id

    for overlap in shared:
        if overlap.together:
            first, second = sorted((root(overlap.first.id), root(overlap.second.id)))
            group[second] = first
    return {id: root(id) for id in group}


def _begin(utterance: Entry) -> float:
    return utterance.start or 0.0


def _end(utterance: Entry) -> float:
    return _begin(utterance) + utterance.duration


def _same_channel(a: Entry, b: Entry) -> bool:
    return a.channel == b.channel or a.channel is None or b.channel is None
