"""Train, dev and test parts: no speaker in two of them, and as few texts as possible.

Each language is split for itself, by the first of these that is possible:

- "manifest": the corpus says for dev and test which utterances they are. A part it does not name is drawn
  from the rest by one of the ways below.
- "speaker": whole speakers are drawn. Of several seeded draws the one that meets the wanted sizes best
  and repeats fewest texts is kept. Texts that many speakers read stay in several parts, and the report says
  what share of them does.
- "text": with too few speakers for that, utterances are drawn so that no text is in two parts. Speakers are.
- "train": with fewer than three texts everything is training data.

Utterances that cover the same span of a recording, as overlapping speech is written down, stay in one part:
their speakers, and their texts, are drawn together.

A speaker of several languages is in the same part in all of them; one who is in several parts of a
language split by text counts as a training speaker elsewhere.

A corpus that grew keeps its earlier split. Every utterance stays in its part. A new utterance of a held-out
speaker (in a language split by text: of a held-out text) joins that part. Other new speakers or texts are
drawn for dev and test while these are short of their shares, and are training data otherwise.

Utterances come as columns. Long ones lie in files (see columns.Scratch), so that 10^8 utterances can be split
in some hundred MB: a few bytes a speaker and an utterance are in memory (see maya.data.prepare.draw for the
draws). Of utterances that share audio, and of new texts of a corpus that grew, more is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.config import config
from maya.data.corpus.manifest import PARTS
from maya.data.prepare.columns import MEMORY, Keys, Scratch, blocks, ranked, running_sum
from maya.data.prepare.draw import (
    DEV,
    HELD_OUT,
    NONE,
    TEST,
    TRAIN,
    Homes,
    Pool,
    Wanted,
    draw_speakers,
    draw_texts,
    extend_texts,
    several_or,
)
from maya.errors import MayaError
from maya.ranges import BelowOne, PosFloat, Seed, Share


@config
class SplitConfig:
    """dev, test: shares of a language's duration, but not more than max_hours of each language.
    min_train: a draw that leaves training less than this share is not accepted.
    fresh: draw all parts anew, where the split of an earlier preparation would be kept. Models trained on the
    earlier split have then seen some of the new dev and test utterances."""

    dev: BelowOne = 0.1
    test: BelowOne = 0.1
    max_hours: PosFloat = 2.0
    min_train: Share = 0.5
    seed: Seed = 0
    fresh: bool = False


Ranks = tuple[NDArray[np.int32], NDArray[np.int64]]  # see columns.ranked


@dataclass(kw_only=True, slots=True)
class SplitColumns:
    """n utterances to be split: language after language, each in the order of its ids.

    languages: in the order of their first ids; ends: of each language's rows. seconds: (n,). speakers, texts:
    (n,) keys (see columns). named, earlier: (n,) parts that the corpus gives and that an earlier split gave,
    as numbers of PARTS, -1 for none. groups: (n,) the same number for utterances that have audio in common,
    -1 for none. scratch: for more columns.
    """

    languages: Sequence[str]
    ends: Sequence[int]
    seconds: NDArray[np.float64]
    speakers: Keys
    texts: Keys
    named: NDArray[np.int8]
    earlier: NDArray[np.int8]
    groups: NDArray[np.int64]
    scratch: Scratch = MEMORY

    def slices(self) -> Iterator[tuple[str, slice]]:
        for language, begin, end in zip(self.languages, [0, *self.ends], self.ends, strict=False):
            yield language, slice(begin, end)


def split(
    columns: SplitColumns, cfg: SplitConfig, methods: Mapping[str, str] | None = None
) -> tuple[NDArray[np.int8], dict[str, Any]]:
    """((n,) the part of each utterance, as a number of PARTS; a report, see `_describe`, by language).

    methods: of an earlier split that is to be kept, by language, as in its report; only a dev or test part
    that the corpus itself names goes before it. Raises MayaError for shares that do not leave room for
    training data.
    """
    if min(cfg.dev, cfg.test) < 0 or cfg.dev + cfg.test > 1 - cfg.min_train:
        raise MayaError(
            f"split shares dev={cfg.dev:g} and test={cfg.test:g} leave less than min_train={cfg.min_train:g} "
            "of the data for training"
        )
    scratch = columns.scratch
    speakers = joined(columns.speakers, columns.groups, scratch)
    texts = joined(columns.texts, columns.groups, scratch)
    everyone, first = ranked(speakers, scratch)
    home = Homes(len(first), scratch)
    pools: dict[str, Pool] = {}
    parts = np.empty(len(columns.seconds), np.int8)
    for language, rows in columns.slices():
        pool = Pool.of(columns.seconds[rows], everyone[rows], texts[rows], columns.named[rows], scratch)
        pool.settled = _settled(pool, columns.earlier[rows])
        pools[language] = pool
    for pool in pools.values():
        home.add(pool, pool.settled, pool.settled != NONE)
    home.close()
    where = dict(columns.slices())
    report: dict[str, Any] = {}
    # Languages without a choice come first: their speakers are then known when others are drawn.
    for language in sorted(pools, key=lambda code: (pools[code].freedom, code)):
        pool, rng = pools.pop(language), np.random.default_rng([cfg.seed, *language.encode()])
        if (pool.settled != NONE).any():
            chosen, method = _extended(pool, (methods or {}).get(language, ""), cfg, home, rng)
        else:
            chosen, method = _drawn(pool, cfg, home, rng)
        home.add(pool, chosen)
        rows = where[language]
        parts[rows] = chosen
        del pool
        names, words = ranked(columns.speakers[rows], scratch), ranked(columns.texts[rows], scratch)
        report[language] = {"method": method} | _describe(chosen, columns.seconds[rows], names, words)
    return parts, {language: report[language] for language in sorted(report)}


def joined(column: Keys, groups: NDArray[np.int64], scratch: Scratch = MEMORY) -> Keys:
    """The keys, with one common key for those of a group, and for all that groups connect."""
    rows = np.flatnonzero(groups >= 0)
    if not len(rows):
        return column
    name: dict[int, int] = {}

    def root(value: int) -> int:
        while (parent := name.setdefault(value, value)) != value:
            name[value] = value = name[parent]
        return value

    first: dict[int, int] = {}
    for group, value in zip(groups[rows].tolist(), column[rows].tolist(), strict=True):
        name[root(value)] = root(first.setdefault(group, value))
    renamed = np.array(sorted((value, root(value)) for value in name if root(value) != value), np.uint64)
    if not len(renamed):
        return column
    result = scratch.joined((column[some] for some in blocks(len(column))), len(column), np.uint64)
    for some in blocks(len(column)):
        own = result[some]
        place = np.minimum(np.searchsorted(renamed[:, 0], own), len(renamed) - 1)
        hit = renamed[place, 0] == own
        own[hit] = renamed[place[hit], 1]
    return result


def _settled(pool: Pool, earlier: NDArray[np.int8]) -> NDArray[np.int8]:
    """The parts that utterances of an earlier split have now; -1 for the others."""
    given = np.unique(pool.named)
    contradicted = np.isin(pool.named, HELD_OUT) | (
        (pool.named == TRAIN) & np.isin(earlier, given[given > TRAIN])
    )
    return np.where((earlier != NONE) & contradicted, pool.named, earlier).astype(np.int8)


def _wanted(pool: Pool, cfg: SplitConfig) -> Wanted:
    """The seconds that each part that the corpus does not name should have."""
    total = running_sum(pool.seconds)
    named = set(np.unique(pool.named).tolist())
    target = {
        part: min(getattr(cfg, PARTS[part]) * total, cfg.max_hours * 3600)
        for part in HELD_OUT
        if part not in named and getattr(cfg, PARTS[part]) > 0
    }
    return Wanted(target, cfg.min_train * total, bool(named & set(HELD_OUT)))


def _extended(
    pool: Pool, method: str, cfg: SplitConfig, home: Homes, rng: np.random.Generator
) -> tuple[NDArray[np.int8], str]:
    """Parts of the utterances of a language of which some are settled, and the method."""
    wanted = _wanted(pool, cfg)
    held = pool.named > TRAIN
    pool.settled = np.where(held, pool.named, pool.settled).astype(np.int8)
    fresh = pool.settled == NONE
    way = method.rpartition("+")[2]
    drawn = np.full(len(fresh), NONE, np.int8)
    if wanted.target and fresh.any():
        if way != "text":
            drawn = _extended_speakers(pool, wanted, home, rng)
        if way not in ("speaker", "text"):  # so far everything was training data
            way = "speaker" if (drawn != NONE).any() else way
        if way != "speaker":
            drawn = extend_texts(pool, wanted, home, rng)
            way = "text" if way == "text" or (drawn > TRAIN).any() else way
    parts = np.where(pool.settled != NONE, pool.settled, np.maximum(drawn, TRAIN)).astype(np.int8)
    if way not in ("speaker", "text"):
        return parts, "manifest" if wanted.named else "train"
    return parts, ("manifest+" if wanted.named else "") + way


def _extended_speakers(pool: Pool, wanted: Wanted, home: Homes, rng: np.random.Generator) -> NDArray[np.int8]:
    """Held-out parts of the new utterances of held-out speakers, and of the new speakers drawn for a part
    that is short of its target."""
    free = pool.named <= TRAIN
    taken = pool.taken(home)
    kept = free & (pool.settled != NONE)
    own = several_or(pool.speakers[kept], pool.settled[kept], len(pool.people), TRAIN)
    taken[own != NONE] = own[own != NONE]
    part_of = draw_speakers(pool, free, wanted, taken, home, rng)
    if part_of is None:
        part_of = np.where(np.isin(taken, list(wanted.target)), taken, NONE).astype(np.int8)
    return np.where(free & (pool.settled == NONE), part_of[pool.speakers], NONE).astype(np.int8)


def _drawn(
    pool: Pool, cfg: SplitConfig, home: Homes, rng: np.random.Generator
) -> tuple[NDArray[np.int8], str]:
    """Parts of the utterances of a language that has no earlier split, and the method."""
    wanted = _wanted(pool, cfg)
    chosen = np.maximum(pool.named, TRAIN).astype(np.int8)
    free = pool.named <= TRAIN
    if not wanted.target or not free.any():
        return chosen, "manifest" if wanted.named else "train"
    # A speaker whom the corpus puts into one part is not drawn for another.
    part_of = draw_speakers(pool, free, wanted, pool.taken(home), home, rng)
    if part_of is not None:
        drawn, method = part_of[pool.speakers], "speaker"
    else:
        drawn = draw_texts(pool, free, wanted, rng)[pool.texts]
        method = "text" if (drawn != NONE).any() else "train"
    chosen = np.where(free & (drawn != NONE), drawn, chosen).astype(np.int8)
    return chosen, f"manifest+{method}" if wanted.named else method


def _describe(parts: NDArray[np.int8], seconds: NDArray[np.float64], *columns: Ranks) -> dict[str, Any]:
    """Sizes of the parts, and what they share with training. columns: speakers and texts, ranked.

    text_overlap: share of the utterances of dev and test whose text is also read in training;
    speaker_overlap: the same of speakers.
    """
    counts, overlaps = [], []
    for codes, first in columns:
        met = np.zeros((len(PARTS), len(first)), np.bool_)
        for some in blocks(len(parts)):
            met[parts[some], codes[some]] = True
        counts.append(met.sum(axis=1).tolist())
        shared = dict.fromkeys(HELD_OUT, 0)
        for some in blocks(len(parts)):
            trained = met[TRAIN][codes[some]]
            for part in shared:
                shared[part] += int(np.count_nonzero(trained & (parts[some] == part)))
        overlaps.append(shared)
    sizes = [int(np.count_nonzero(parts == number)) for number in range(len(PARTS))]
    described = {
        part: {
            "utterances": sizes[number],
            "seconds": round(running_sum(seconds, mask=parts == number), 3),
            "speakers": counts[0][number],
            "texts": counts[1][number],
        }
        for number, part in enumerate(PARTS)
    }
    speakers, texts = (
        {PARTS[part]: round(some[part] / sizes[part], 4) if sizes[part] else 0.0 for part in (DEV, TEST)}
        for some in overlaps
    )
    return {"parts": described, "text_overlap": texts, "speaker_overlap": speakers}
