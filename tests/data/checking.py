"""Checks of texts on entries that a test describes: they are written as shards and compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maya.data.corpus.manifest import Problem
from maya.data.measure.entry import Entry
from maya.data.prepare.compare import compare_texts
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import check_texts
from maya.data.prepare.shards import DROPPED, SUSPECT, Shards, read_problems, write_entries
from maya.data.prepare.text_checks import TextCheckConfig


class Checked(NamedTuple):
    """kept: utterances, in order; flags: of these; dropped: the others."""

    kept: list[Entry]
    flags: list[Problem]
    dropped: list[Problem]


def shards_of(folder: Path, entries: Sequence[Entry], rows: int = 3) -> Shards:
    """Shards of so many utterances."""
    folders = []
    for begin in range(0, len(entries), rows):
        folders.append(folder / f"{begin:06d}")
        folders[-1].mkdir(parents=True)
        compare = all(Path(entry.path).is_file() for entry in entries)
        write_entries(folders[-1], entries[begin : begin + rows], {}, compare=compare)
    return Shards(folders)


def checked(folder: Path, entries: Sequence[Entry], cfg: TextCheckConfig) -> Checked:
    """The results of the checks, with `folder` for their files."""
    shards = shards_of(folder / "shards", entries)
    noticed, _ = compare_texts(shards, cfg, folder / "work")
    keep = check_texts(shards, PrepareConfig(text_checks=cfg), noticed, folder / "work")
    noted = [item for path in sorted((folder / "work").glob("*.parquet")) for item in read_problems(path)]
    flags, dropped = ([n.problem for n in noted if n.stage == stage] for stage in (SUSPECT, DROPPED))
    return Checked([entries[row] for row in np.flatnonzero(keep)], flags, dropped)
