"""What an output folder of `maya prepare` already holds, and whether a corpus is the one it was made from.

Runs lie beside the prepared data and belong to them. So another corpus is refused, while one that moved, grew
or was corrected keeps its split, and what changed is said.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maya.config import to_dict
from maya.data.corpus.folder import is_named
from maya.data.corpus.manifest import PARTS, Row
from maya.data.measure.probe import Probed
from maya.data.prepare.split import EarlierSplit, SplitConfig
from maya.data.table.entry import Entry
from maya.data.table.table import Table, part_path
from maya.errors import MayaError

_ALIKE = 0.5  # share of the utterances that must be the same for a corpus to be the same
_SLACK = 0.02  # seconds by which the durations of the same audio may differ


class EarlierRow(NamedTuple):
    """An utterance of an earlier preparation. text: as published; seconds: its duration; size: bytes of its
    file, mtime: seconds since 1970 at which that last changed."""

    part: str
    language: str
    text: str
    seconds: float
    size: int
    mtime: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """An earlier preparation. corpus: its name (see `corpus_name`), "" where the folder does not say; rows:
    by id; methods: of the split, by language; split: its options, None where unknown; damaged: parts whose
    tables cannot be read."""

    out: Path
    corpus: str
    rows: Mapping[str, EarlierRow]
    methods: Mapping[str, str]
    split: dict[str, Any] | None
    damaged: Sequence[str] = ()

    def check_ids(self, corpus: str, rows: Sequence[Row]) -> None:
        """Raises MayaError where the rows of a corpus, as read, are of another one than the earlier."""
        by_id = {row.id: row for row in rows}
        shared = [(row, by_id[name]) for name, row in self.rows.items() if name in by_id]
        if self.moved(corpus):
            same = sum(old.text == new.text and old.language == new.language for old, new in shared)
            smallest = len(self.rows)
        else:
            same, smallest = len(shared), min(len(self.rows), len(rows))
        self._refuse(corpus, same, smallest)

    def check_audio(self, corpus: str, kept: Iterable[Probed]) -> None:
        """The same of utterances whose audio was measured: other speech under the same names is refused."""
        same = shared = 0
        for probed in kept:
            if (old := self.rows.get(probed.row.id)) is not None:
                shared += 1
                evidence = old.text == probed.row.text, abs(old.seconds - probed.seconds) <= _SLACK
                same += all(evidence) if self.moved(corpus) else any(evidence)
        self._refuse(corpus, same, shared)

    def moved(self, corpus: str) -> bool:
        """Whether the earlier corpus lay elsewhere."""
        return self.corpus not in ("", corpus)

    def _refuse(self, corpus: str, same: int, of: int) -> None:
        if same >= _ALIKE * of:
            return
        if self.moved(corpus):
            what = f"{self.out} was prepared from {self.corpus}, and {corpus} is another corpus"
        else:
            what = f"{self.out} was prepared from {corpus} when that was another corpus"
        raise MayaError(
            f"{what}: only {same} of {of} utterances are the same; choose another --out (--work of run.sh), "
            f"or remove {self.out} to begin anew"
        )

    def kept_split(self, cfg: SplitConfig) -> EarlierSplit | None:
        """The split to keep; None where it is to be drawn anew, because that or other options are given."""
        if cfg.fresh or self.split not in (None, split_options(cfg)):
            return None
        return EarlierSplit(
            parts={name: row.part for name, row in self.rows.items()}, methods=dict(self.methods)
        )

    def changes(self, corpus: str, entries: Mapping[str, Sequence[Entry]], cfg: SplitConfig) -> list[str]:
        """Sentences for people: what is new, gone and different in these entries, by part."""
        return [*self._sentences(corpus, entries, cfg)]

    def _sentences(
        self, corpus: str, entries: Mapping[str, Sequence[Entry]], cfg: SplitConfig
    ) -> Iterator[str]:
        if self.moved(corpus):
            yield f"the corpus was in {self.corpus} before and is in {corpus} now"
        if self.damaged:
            yield f"the split of {', '.join(self.damaged)} is lost, because these tables cannot be read"
        gone, new = (
            Counter((row.language, row.part) for row in self.rows.values()),
            Counter[tuple[str, str]](),
        )
        moves, texts, audio = Counter[str](), 0, 0
        for part, entry in ((part, entry) for part, some in entries.items() for entry in some):
            if (old := self.rows.get(entry.id)) is None:
                new[entry.language, part] += 1
                continue
            gone[old.language, old.part] -= 1
            if old.part != part:
                moves[f"{old.part} to {part}"] += 1
            texts += old.text != entry.raw_text
            audio += (old.size, old.mtime) != (entry.file_size, entry.file_mtime)
        if kept := self.kept_split(cfg):
            yield f"the earlier split of {len(kept.parts) - gone.total()} utterances is kept"
        else:
            why = "split.fresh is true" if cfg.fresh else "its options changed"
            yield f"the split is drawn anew, because {why}"
        if new.total():
            yield f"new utterances: {new.total()} ({_by_language(new)})"
        if gone.total():
            yield f"earlier utterances that are gone: {gone.total()} ({_by_language(gone)})"
        if moves:
            counts = ", ".join(f"{count} from {move}" for move, count in sorted(moves.items()))
            why = "because the corpus says so; " if kept else ""
            yield f"utterances changed their part: {counts}; {why}a model trained before may have seen them"
        if texts:
            yield f"utterances with another text than before: {texts}"
        if audio:
            yield f"utterances with other audio files than before: {audio}"


def read_earlier(out: Path) -> Earlier | None:
    """The preparation that a folder holds; None where there is none, or none of its tables can be read."""
    rows: dict[str, EarlierRow] = {}
    damaged = []
    names = ("id", "language", "raw_text", "duration", "file_size", "file_mtime")
    paths = {part: part_path(out, part) for part in PARTS}
    for part, path in paths.items():
        if not path.is_file():
            continue
        try:
            for name, *values in Table.open(path).read(*names):
                rows[name] = EarlierRow(part, *values)
        except MayaError:
            damaged.append(part)
    if not rows:
        return None
    summary, splits = _json(out / "summary.json"), _json(out / "splits.json")
    stage = _json(out / "stage.json").get("inputs", {})  # versions before 0.2 wrote it there alone
    return Earlier(
        out=out,
        corpus=summary.get("corpus", stage.get("corpus", "")),
        rows=rows,
        methods={language: facts["method"] for language, facts in splits.items()},
        split=summary.get("split_options", stage.get("options", {}).get("split")),
        damaged=damaged,
    )


def corpus_name(corpus: Path) -> str:
    """By what a corpus is known: its folder's path, without links; of `lhotse:NAME:DIR` and
    `nemo:MANIFESTS:TARS` the same with the paths in it."""
    if not is_named(corpus):
        return os.path.realpath(corpus)
    kind, first, second = str(corpus).split(":", 2)
    return f"{kind}:{first if kind == 'lhotse' else os.path.abspath(first)}:{os.path.realpath(second)}"


def split_options(cfg: SplitConfig) -> dict[str, Any]:
    """The options that decide a split."""
    return {name: value for name, value in to_dict(cfg).items() if name != "fresh"}


def _by_language(counts: Mapping[tuple[str, str], int]) -> str:
    """`hi train 5 test 1, kn dev 2`"""
    texts: dict[str, str] = {}
    for (language, part), count in sorted(
        counts.items(), key=lambda item: (item[0][0], PARTS.index(item[0][1]))
    ):
        if count:
            texts[language] = f"{texts.get(language, language)} {part} {count}"
    return ", ".join(texts.values())


def _json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is absent or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
