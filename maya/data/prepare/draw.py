"""Drawing the speakers and texts of dev and test in a language. Parts are numbers of PARTS, -1 for none."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maya.data.corpus.manifest import PARTS
from maya.data.prepare.columns import Keys, ranked, running_sum

NONE, TRAIN, DEV, TEST = -1, *(PARTS.index(part) for part in ("train", "dev", "test"))
HELD_OUT = (TEST, DEV)  # drawn in this order
_DRAWS = 50
_AT_ONCE = 4096
Parts = NDArray[np.int8]


class Wanted(NamedTuple):
    """target: seconds that each part to be drawn should have; min_train: seconds that training must keep;
    named: whether the corpus itself names dev or test."""

    target: dict[int, float]
    min_train: float
    named: bool


class Homes:
    """The part of each speaker met so far, and the order in which they were met."""

    def __init__(self, speakers: int) -> None:
        self.part = np.full(speakers, NONE, np.int8)
        self.order = np.full(speakers, np.iinfo(np.int64).max)
        self._count = 0
        self._mixed = np.zeros(speakers, np.bool_)

    def add(self, people: NDArray[np.integer], parts: Parts, extend: bool = False) -> None:
        """Note the speaker and part of each utterance: train for a speaker of several parts. A speaker who is
        noted already keeps the part, unless `extend` adds to what was noted so far."""
        if not len(people):
            return
        codes, first = ranked(people.astype(np.uint64))
        own = several_or(codes, parts, len(first), TRAIN)
        who = people[first]
        new = self.part[who] == NONE
        if extend:
            lot = np.zeros(len(first), np.bool_)
            lot[codes[parts != own[codes]]] = True  # in several parts
            self._mixed[who] |= lot | (~new & (self.part[who] != own))
        self.part[who[new]] = own[new]
        self.order[who[new]] = self._count + np.arange(int(new.sum()))
        self._count += int(new.sum())

    def close(self) -> None:
        """What was extended is complete."""
        self.part[self._mixed] = TRAIN


def several_or(codes: NDArray[np.integer], parts: Parts, count: int, other: int) -> Parts:
    """(count,) the only part of the utterances of each code, `other` where they have several, -1 for none."""
    low, high = np.full(count, 127, np.int8), np.full(count, NONE, np.int8)
    np.minimum.at(low, codes, parts)
    np.maximum.at(high, codes, parts)
    return np.where(high == NONE, NONE, np.where(low == high, low, other)).astype(np.int8)


@dataclass(kw_only=True, slots=True)
class Pool:
    """n utterances of one language in the order of their ids.

    seconds: (n,); speakers, texts: (n,) numbers from 0 in the order in which they first occur; people: the
    number of each speaker in all languages; named, settled: (n,) parts that the corpus gives, and those of an
    earlier split.
    """

    seconds: NDArray[np.float64]
    speakers: NDArray[np.int32]
    people: NDArray[np.integer]
    texts: NDArray[np.int32]
    named: Parts
    settled: Parts

    @classmethod
    def of(
        cls, seconds: NDArray[np.float64], people: NDArray[np.integer], texts: Keys, named: Parts
    ) -> "Pool":
        speakers, first = ranked(people.astype(np.uint64))
        return cls(
            seconds=seconds,
            speakers=speakers,
            people=people[first],
            texts=ranked(texts)[0],
            named=named,
            settled=np.full(len(seconds), NONE, np.int8),
        )

    @property
    def freedom(self) -> int:
        """0: the corpus gives the parts; 1: too few speakers to divide; 2: free."""
        if (self.named != NONE).any():
            return 0
        return 1 if len(self.people) < 3 else 2

    def taken(self, home: Homes) -> Parts:
        """(speakers,) the part of those who have one: in another language, or train where the corpus names
        their part."""
        given = np.full(len(self.people), NONE, np.int8)
        given[self.speakers[self.named > TRAIN]] = TRAIN
        noted = home.part[self.people]
        return np.where(noted != NONE, noted, given).astype(np.int8)

    def taken_order(self, home: Homes) -> NDArray[np.int64]:
        """(speakers,) ranks of those who are taken: sums of seconds depend on the order in the last bit."""
        order = home.order[self.people]
        codes, first = np.unique(self.speakers[self.named > TRAIN], return_index=True)
        order[codes] = first - len(self.seconds)
        return order


class _Groups:
    """Rows by their codes."""

    def __init__(self, codes: NDArray[np.integer], count: int) -> None:
        self._rows = np.argsort(codes, kind="stable")
        self._ends = np.cumsum(np.bincount(codes, minlength=count))

    def __getitem__(self, code: int) -> NDArray[np.int64]:
        return self._rows[self._ends[code - 1] if code else 0 : self._ends[code]]


def draw_speakers(
    pool: Pool, free: NDArray[np.bool_], wanted: Wanted, taken: Parts, home: Homes, rng: np.random.Generator
) -> Parts | None:
    """(speakers,) the parts of the speakers drawn; None if no draw fills each part and leaves min_train.
    free: (n,) utterances whose part the corpus does not name."""
    rows, count = np.flatnonzero(free), len(pool.people)
    codes, texts = pool.speakers[rows], pool.texts[rows]
    order = _in_order(codes)
    seconds: NDArray[np.float64] = np.bincount(codes, pool.seconds[rows], count).astype(np.float64)
    total, groups, readings = running_sum(seconds[order]), _Groups(codes, count), np.bincount(texts)
    placed_ones = order[np.isin(taken[order], list(wanted.target))]
    placed_ones = placed_ones[np.argsort(pool.taken_order(home)[placed_ones], kind="stable")]
    placed = {int(s): int(taken[s]) for s in placed_ones}
    undecided = order[taken[order] == NONE]
    best: tuple[float, dict[int, int]] | None = None
    for _ in range(_DRAWS):
        part_of = placed | _fill(undecided, seconds, wanted.target, placed, rng)
        held = {part: _sum(seconds, part_of, part) for part in wanted.target}
        if min(held.values()) == 0 or total - sum(held.values()) < wanted.min_train:
            continue
        miss = sum(abs(held[part] - target) / target for part, target in wanted.target.items())
        drawn = np.concatenate([groups[speaker] for speaker in part_of])
        read, times = np.unique(texts[drawn], return_counts=True)
        repeated = int(times[times < readings[read]].sum())  # also in what is left for training
        cost = miss + round(repeated / len(drawn), 4)
        if best is None or cost < best[0]:
            best = cost, part_of
    if best is None:
        return None
    result = np.full(count, NONE, np.int8)
    result[list(best[1])] = list(best[1].values())
    return result


def _sum(seconds: NDArray[np.float64], part_of: dict[int, int], part: int) -> float:
    return sum(float(seconds[speaker]) for speaker, own in part_of.items() if own == part)


def _in_order(codes: NDArray[np.integer]) -> NDArray[Any]:
    """The codes, each once, in the order in which they first occur."""
    values, first = np.unique(codes, return_index=True)
    return values[np.argsort(first)]


def _fill(
    undecided: NDArray[Any],
    seconds: NDArray[np.float64],
    target: dict[int, float],
    placed: dict[int, int],
    rng: np.random.Generator,
) -> dict[int, int]:
    """Draw speakers for each part until it has about its target; at least one, the shortest if none fits."""
    order = undecided[rng.permutation(len(undecided))]
    drawn: dict[int, int] = {}
    for part, target_seconds in target.items():
        have = _sum(seconds, placed, part)
        for speaker in _items(order):
            if have >= target_seconds:
                break
            if speaker not in drawn and have + seconds[speaker] <= 1.25 * target_seconds:
                drawn[speaker] = part
                have += float(seconds[speaker])
        remaining = order[~np.isin(order, list(drawn))] if have == 0 else ()
        if len(remaining):
            drawn[int(remaining[np.argmin(seconds[remaining])])] = part
    return drawn


def _items(values: NDArray[Any]) -> Iterator[int]:
    """The values one by one; as a rule only the first are needed of millions."""
    for begin in range(0, len(values), _AT_ONCE):
        yield from values[begin : begin + _AT_ONCE].tolist()


def draw_texts(pool: Pool, free: NDArray[np.bool_], wanted: Wanted, rng: np.random.Generator) -> Parts:
    """(texts,) the parts of the texts drawn; none if there are too few texts for all parts."""
    rows = np.flatnonzero(free)
    codes, count = pool.texts[rows], int(pool.texts.max(initial=-1)) + 1
    result, texts = np.full(count, NONE, np.int8), _in_order(codes)
    if len(texts) <= len(wanted.target):
        return result
    seconds = np.bincount(codes, pool.seconds[rows], count)
    order, place = texts[rng.permutation(len(texts))], len(texts)
    for number, (part, target_seconds) in enumerate(wanted.target.items()):
        have = 0.0
        kept_back = len(wanted.target) - number  # a text for each part still to come, training included
        while have < target_seconds and place > kept_back:
            place -= 1
            result[order[place]] = part
            have += float(seconds[order[place]])
    return result


def extend_texts(pool: Pool, wanted: Wanted, home: Homes, rng: np.random.Generator) -> Parts:
    """(n,) parts of the utterances that are not settled, such that no text comes to be in two parts. A new
    speaker stays in one part where the texts allow it."""
    settled = pool.settled != NONE
    part_of_text = _text_parts(pool)
    seconds = {
        part: running_sum(pool.seconds[settled & (pool.settled == part)]) for part in (*HELD_OUT, TRAIN)
    }
    settled_ones = np.zeros(len(pool.people), np.bool_)
    settled_ones[pool.speakers[settled]] = True
    fresh = np.flatnonzero(~settled)
    speakers = pool.speakers[fresh]
    of_text = settled_ones[speakers]  # by its text; by its speaker where that one is new
    names, first = ranked(
        np.where(of_text, pool.texts[fresh], len(part_of_text) + speakers).astype(np.uint64)
    )
    groups = _Groups(names, len(first))
    spare = running_sum(pool.seconds) - wanted.min_train  # of held-out data
    parts = np.full(len(settled), NONE, np.int8)
    for number in rng.permutation(len(first)).tolist():
        rows = fresh[groups[number]]
        lengths, texts = pool.seconds[rows].tolist(), pool.texts[rows].tolist()
        length = sum(lengths)
        met = {part_of_text[text] for text in texts if part_of_text[text] != NONE}
        fits = [
            part
            for part, target_seconds in wanted.target.items()
            if seconds[part] + length <= 1.25 * target_seconds
            and seconds[DEV] + seconds[TEST] + length <= spare
        ]
        short = [part for part in fits if seconds[part] < wanted.target[part]]
        given = TRAIN if len(met) > 1 else next(iter(met), NONE)
        if not met and not of_text[groups[number][0]]:
            given = int(home.part[pool.people[pool.speakers[rows[0]]]])  # from another language
        part = next(iter(short), TRAIN) if given == NONE else given if given in fits else TRAIN
        for row, text, own in zip(rows.tolist(), texts, lengths, strict=True):
            if part_of_text[text] == NONE:
                part_of_text[text] = part
            parts[row] = part_of_text[text]
            seconds[part_of_text[text]] += own
    return parts


def _text_parts(pool: Pool) -> list[int]:
    """The part of each text that a settled utterance has: train where one is there."""
    result = np.full(int(pool.texts.max(initial=-1)) + 1, NONE, np.int8)
    rows = np.flatnonzero(pool.settled != NONE)[::-1]
    result[pool.texts[rows]] = pool.settled[rows]  # that of the first: it is written last
    result[pool.texts[rows[pool.settled[rows] == TRAIN]]] = TRAIN
    return result.tolist()
