"""The parts of the utterances of all shards, and what those that are held out share with training."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maya.data.corpus.manifest import PARTS, Problem
from maya.data.measure.flags import problem
from maya.data.prepare.columns import counted, met_in, mixed, ranked, sorted_by, text_order
from maya.data.prepare.earlier import Earlier
from maya.data.prepare.shards import Shards
from maya.data.prepare.split import SplitColumns, SplitConfig, split
from maya.data.prepare.text_checks import leak_findings

NO_PART = -1  # of an utterance that is dropped
_LEAKS = ("text_in_training", "speaker_in_training", "audio_in_training")


class Leaks(NamedTuple):
    """What held-out utterances share with training. flags: (n,) a bit for each of _LEAKS; overlaps: by row,
    what of the audio is in another part."""

    flags: NDArray[np.uint8]
    overlaps: dict[int, str]

    def problems(self, shards: Shards, parts: NDArray[np.int8]) -> Iterator[Problem]:
        """In the order of the corpus."""
        marked = self.flags > 0
        marked[list(self.overlaps)] = True
        for begin, table in shards.tables():
            rows = np.flatnonzero(marked[begin : begin + len(table)])
            for row, entry in zip((begin + rows).tolist(), table.entries(rows.tolist()), strict=True):
                leaks = [name for bit, name in enumerate(_LEAKS) if self.flags[row] >> bit & 1]
                for finding in leak_findings(PARTS[parts[row]], leaks, self.overlaps.get(row)):
                    yield problem(entry, finding)


def split_shards(
    shards: Shards,
    kept: NDArray[np.bool_],
    groups: NDArray[np.int64],
    cfg: SplitConfig,
    earlier: Earlier | None,
) -> tuple[NDArray[np.int8], dict[str, Any]]:
    """((n,) the part of each utterance, -1 for one that is dropped; the report, see split)."""

    def ids() -> Iterator[pa.Array]:
        for begin, table in shards.tables():
            column = table.column("id").filter(pa.array(kept[begin : begin + len(table)]))
            yield from column.chunks

    scratch, (numbers, codes) = shards.scratch, shards.languages
    rows = scratch.where(kept)
    rows = scratch.taken(rows, text_order(ids, len(rows), scratch))
    order, first = ranked(scratch.taken(numbers, rows), scratch)  # languages in the order of their first ids
    languages = [codes[number] for number in numbers[rows[first]].tolist()]
    ends = np.cumsum(counted(order, len(languages))).tolist()
    rows = sorted_by(order, len(languages), rows, scratch)
    keeps = earlier is not None and earlier.keeps_split(cfg)
    before = scratch.full(len(rows), np.int8, NO_PART)
    if earlier and keeps:
        before = earlier.parts_of(scratch.taken(shards.extra("id"), rows))
    before[scratch.taken(shards.extra("pseudo"), rows)] = PARTS.index("train")  # never drawn for dev and test

    def taken(column: NDArray[Any]) -> NDArray[Any]:
        return scratch.taken(column, rows)

    columns = SplitColumns(
        languages=languages,
        ends=ends,
        seconds=taken(shards.numbers("duration")),
        speakers=taken(shards.extra("speaker")),
        texts=taken(shards.extra("text")),
        named=taken(shards.extra("named")),
        earlier=before,
        groups=taken(groups),
        scratch=scratch,
    )
    chosen, report = split(columns, cfg, earlier.methods if earlier and keeps else {})
    parts = np.full(len(shards), NO_PART, np.int8)
    parts[rows] = chosen
    return parts, report


def find_leaks(
    shards: Shards, parts: NDArray[np.int8], audio: NDArray[np.int64] | None, overlaps: dict[int, str]
) -> Leaks:
    """What held-out utterances share with training; texts are compared within a language. audio: (n,) the
    first utterance with the same audio, None where it is not compared; overlaps: see Leaks."""
    training = parts == PARTS.index("train")
    held = (parts != NO_PART) & ~training
    columns = (
        lambda: mixed(shards.languages[0], shards.extra("text"), scratch=shards.scratch),
        lambda: shards.extra("speaker"),
        *([lambda: audio] if audio is not None else []),
    )
    flags = np.zeros(len(parts), np.uint8)
    for bit, column in enumerate(columns):
        flags |= met_in(column(), held, training).astype(np.uint8) << bit
    return Leaks(flags, overlaps)
