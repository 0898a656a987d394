"""Drawing the speakers and texts of dev and test in a language. Parts are numbers of PARTS, -1 for none."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maya.data.corpus.manifest import PARTS
from maya.data.prepare.columns import (
    MEMORY,
    Keys,
    Numbers,
    Scratch,
    blocks,
    counted,
    first_places,
    ranked,
    running_sum,
    summed,
)

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

    def __init__(self, speakers: int, scratch: Scratch = MEMORY) -> None:
        self.part = scratch.full(speakers, np.int8, NONE)
        self.order = scratch.full(speakers, np.int64, np.iinfo(np.int64).max)
        self._count = 0
        self._mixed = np.zeros(speakers, np.bool_)

    def add(self, pool: "Pool", parts: Parts, rows: NDArray[np.bool_] | None = None) -> None:
        """Note the speaker and part of each utterance: train for a speaker of several parts. A speaker who is
        noted already keeps the part. rows: those that count; they add to what was noted so far."""
        own = several_or(pool.speakers, parts, len(pool.people), TRAIN, rows)
        if rows is None:
            met: Numbers = np.flatnonzero(own != NONE)
        else:
            codes = pool.scratch.chosen(pool.speakers, rows)
            met = in_order(codes, len(pool.people), pool.scratch)
            several = several_or(pool.speakers, parts, len(pool.people), TEST + 1, rows)
            noted = self.part[pool.people]
            differs = (several > TEST) | ((noted != NONE) & (own != NONE) & (noted != own))
            self._mixed[pool.people[differs]] = True
        who = pool.people[met]
        new = self.part[who] == NONE
        self.part[who[new]] = own[met][new]
        self.order[who[new]] = self._count + np.arange(int(new.sum()))
        self._count += int(new.sum())

    def close(self) -> None:
        """What rows added is complete."""
        self.part[self._mixed] = TRAIN


def several_or(
    codes: Numbers, parts: Parts, count: int, other: int, rows: NDArray[np.bool_] | None = None
) -> Parts:
    """(count,) the only part of the utterances of each code, `other` where they have several, -1 for none.
    rows: those that count; all by default."""
    low, high = np.full(count, 127, np.int8), np.full(count, NONE, np.int8)
    for some in blocks(len(codes)):
        here = some if rows is None else some.start + np.flatnonzero(rows[some])
        np.minimum.at(low, codes[here], parts[here])
        np.maximum.at(high, codes[here], parts[here])
    return np.where(high == NONE, NONE, np.where(low == high, low, other)).astype(np.int8)


@dataclass(kw_only=True, slots=True)
class Pool:
    """n utterances of one language in the order of their ids.

    seconds: (n,); speakers, texts: (n,) numbers from 0 in the order in which they first occur; people: the
    number of each speaker in all languages; named, settled: (n,) parts that the corpus gives, and those of an
    earlier split. text_count: texts that differ.
    """

    seconds: NDArray[np.float64]
    speakers: NDArray[np.int32]
    people: NDArray[np.integer]
    texts: NDArray[np.int32]
    named: Parts
    settled: Parts
    text_count: int
    scratch: Scratch

    @classmethod
    def of(
        cls, seconds: NDArray[np.float64], people: Numbers, texts: Keys, named: Parts, scratch: Scratch
    ) -> "Pool":
        speakers, first = ranked(people, scratch)
        words, firsts = ranked(texts, scratch)
        return cls(
            seconds=seconds,
            speakers=speakers,
            people=scratch.taken(people, first),
            texts=words,
            named=named,
            settled=scratch.full(len(seconds), np.int8, NONE),
            text_count=len(firsts),
            scratch=scratch,
        )

    def of_rows(
        self, free: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """(speakers, texts, seconds) of these rows."""
        if free.all():
            return self.speakers, self.texts, self.seconds
        chosen = self.scratch.chosen
        return chosen(self.speakers, free), chosen(self.texts, free), chosen(self.seconds, free)

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

    def taken_order(self, home: Homes, placed: Numbers) -> NDArray[np.int64]:
        """(placed,) ranks of these who are taken: sums of seconds depend on the order in the last bit."""
        order = home.order[self.people[placed]]
        codes, first = np.unique(self.speakers[self.named > TRAIN], return_index=True)
        place = np.minimum(np.searchsorted(codes, placed), len(codes) - 1)
        named = codes[place] == placed if len(codes) else np.zeros(len(placed), np.bool_)
        order[named] = first[place[named]] - len(self.seconds)
        return order


class _Groups:
    """Rows by their codes."""

    def __init__(self, codes: Numbers, values: Numbers | None = None) -> None:
        rows = np.argsort(codes, kind="stable")
        self._codes, self._values = codes[rows], rows if values is None else values[rows]

    def __getitem__(self, code: int) -> NDArray[Any]:
        """Their numbers, or their values where these are given."""
        return self._values[np.searchsorted(self._codes, code) : np.searchsorted(self._codes, code, "right")]


def _texts_of(drawn: Iterable[int], codes: Numbers, texts: Numbers, count: int) -> _Groups:
    """The texts of these speakers, by speaker."""
    mask = np.zeros(count, np.bool_)
    mask[list(drawn)] = True
    rows = [some.start + np.flatnonzero(mask[codes[some]]) for some in blocks(len(codes))]
    chosen = np.concatenate([*rows, np.zeros(0, np.int64)])
    return _Groups(codes[chosen], texts[chosen])


def draw_speakers(
    pool: Pool, free: NDArray[np.bool_], wanted: Wanted, taken: Parts, home: Homes, rng: np.random.Generator
) -> Parts | None:
    """(speakers,) the parts of the speakers drawn; None if no draw fills each part and leaves min_train.
    free: (n,) utterances whose part the corpus does not name."""
    scratch, count = pool.scratch, len(pool.people)
    codes, texts, lengths = pool.of_rows(free)
    order = in_order(codes, count, scratch)
    seconds, readings = summed(codes, lengths, count, scratch), counted(texts, pool.text_count, scratch)
    total = 0.0
    for some in blocks(len(order)):
        total = running_sum(seconds[order[some]], total)
    placed_ones = order[np.isin(taken[order], list(wanted.target))]
    placed_ones = placed_ones[np.argsort(pool.taken_order(home, placed_ones), kind="stable")]
    placed = {int(s): int(taken[s]) for s in placed_ones}
    undecided = order[taken[order] == NONE]
    draws: list[dict[int, int]] = []
    for _ in range(_DRAWS):
        part_of = placed | _fill(undecided, seconds, wanted.target, placed, rng)
        held = {part: _sum(seconds, part_of, part) for part in wanted.target}
        if min(held.values()) > 0 and total - sum(held.values()) >= wanted.min_train:
            draws.append(part_of)
    groups = _texts_of({speaker for draw in draws for speaker in draw}, codes, texts, count)
    best: tuple[float, dict[int, int]] | None = None
    for part_of in draws:
        miss = sum(
            abs(_sum(seconds, part_of, part) - target) / target for part, target in wanted.target.items()
        )
        drawn = np.concatenate([groups[speaker] for speaker in part_of])
        read, times = np.unique(drawn, return_counts=True)
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


def in_order(codes: Numbers, count: int, scratch: Scratch) -> NDArray[np.int32]:
    """The codes, each once, in the order in which they first occur."""
    first = first_places(codes, count, scratch)
    present = scratch.chosen(_numbered(count), first < len(codes))
    places = first[present]
    return present if (places[1:] > places[:-1]).all() else present[np.argsort(places)]


def _numbered(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def _shuffled(count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """As rng.permutation(count), in half the memory."""
    result = _numbered(count)
    rng.shuffle(result)
    return result


def _fill(
    undecided: NDArray[Any],
    seconds: NDArray[np.float64],
    target: dict[int, float],
    placed: dict[int, int],
    rng: np.random.Generator,
) -> dict[int, int]:
    """Draw speakers for each part until it has about its target; at least one, the shortest if none fits."""
    order = _shuffled(len(undecided), rng)
    drawn: dict[int, int] = {}
    for part, target_seconds in target.items():
        have = _sum(seconds, placed, part)
        for speaker in _items(undecided, order):
            if have >= target_seconds:
                break
            if speaker not in drawn and have + seconds[speaker] <= 1.25 * target_seconds:
                drawn[speaker] = part
                have += float(seconds[speaker])
        if have == 0:
            remaining = undecided[order]
            remaining = remaining[~np.isin(remaining, list(drawn))]
            if len(remaining):
                drawn[int(remaining[np.argmin(seconds[remaining])])] = part
    return drawn


def _items(values: NDArray[Any], order: Numbers) -> Iterator[int]:
    """The values in this order; as a rule only the first are needed of millions."""
    for begin in range(0, len(order), _AT_ONCE):
        yield from values[order[begin : begin + _AT_ONCE]].tolist()


def draw_texts(pool: Pool, free: NDArray[np.bool_], wanted: Wanted, rng: np.random.Generator) -> Parts:
    """(texts,) the parts of the texts drawn; none if there are too few texts for all parts."""
    _, codes, lengths = pool.of_rows(free)
    count = pool.text_count
    result, texts = np.full(count, NONE, np.int8), in_order(codes, count, pool.scratch)
    if len(texts) <= len(wanted.target):
        return result
    seconds = summed(codes, lengths, count, pool.scratch)
    order, place = _shuffled(len(texts), rng), len(texts)
    for number, (part, target_seconds) in enumerate(wanted.target.items()):
        have = 0.0
        kept_back = len(wanted.target) - number  # a text for each part still to come, training included
        while have < target_seconds and place > kept_back:
            place -= 1
            text = texts[order[place]]
            result[text] = part
            have += float(seconds[text])
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
    groups = _Groups(names)
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
