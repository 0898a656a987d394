"""An earlier preparation in the output folder of `maya prepare`, and whether a corpus is the same.

Runs lie beside the prepared data and belong to them. So another corpus is refused, while one that moved, grew
or was corrected keeps its split, and the changes are reported.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maya.config import to_dict
from maya.data.corpus.folder import is_named
from maya.data.corpus.manifest import PARTS, Row
from maya.data.measure.entry import Entry
from maya.data.prepare.split import EarlierSplit, SplitConfig
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.files import read_json

_ALIKE = 0.5  # share of the utterances that must be the same for a corpus to be the same
_FIELDS = ("id", "language", "raw_text", "duration", "file_size", "file_mtime", "labels")
_NOTHING = Entry(
    id="", path="", offset=None, size=None, member=None, file_size=0, file_mtime=0, sample_rate=0, channels=0,
    num_samples=0, start=None, duration=0.0,
)  # fmt: skip
_SLACK = 0.02  # seconds by which the durations of the same audio may differ


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """An earlier preparation. corpus: its name (see `corpus_name`), "" where the folder does not say;
    entries, parts: by id, with those fields that are compared (_FIELDS); methods: of the split, by language;
    split: its options, None where unknown; damaged: parts whose tables cannot be read."""

    out: Path
    corpus: str
    entries: Mapping[str, Entry]
    parts: Mapping[str, str]
    methods: Mapping[str, str]
    split: dict[str, Any] | None
    damaged: Sequence[str] = ()

    def check_ids(self, corpus: str, rows: Sequence[Row]) -> None:
        """Raise MayaError where the rows, as read, are those of another corpus than the earlier."""
        by_id = {row.id: row for row in rows}
        shared = [(entry, by_id[name]) for name, entry in self.entries.items() if name in by_id]
        if self.moved(corpus):
            same = sum(old.raw_text == new.text and old.language == new.language for old, new in shared)
            smallest = len(self.entries)
        else:
            same, smallest = len(shared), min(len(self.entries), len(rows))
        self._refuse(corpus, same, smallest)

    def check_audio(self, corpus: str, entries: Iterable[Entry]) -> None:
        """The same of entries whose audio was measured: other speech under the same names is refused."""
        same = shared = 0
        for entry in entries:
            if (old := self.entries.get(entry.id)) is not None:
                shared += 1
                evidence = old.raw_text == entry.raw_text, abs(old.duration - entry.duration) <= _SLACK
                same += all(evidence) if self.moved(corpus) else any(evidence)
        self._refuse(corpus, same, shared)

    def moved(self, corpus: str) -> bool:
        """Whether the earlier corpus lay elsewhere."""
        return self.corpus not in ("", corpus)

    def _refuse(self, corpus: str, same: int, of: int) -> None:
        if same >= _ALIKE * of:
            return
        if self.moved(corpus):
            relation = f"{self.out} was prepared from {self.corpus}, and {corpus} is another corpus"
        else:
            relation = f"{self.out} was prepared from {corpus} when that was another corpus"
        raise MayaError(
            f"{relation}: only {same} of {of} utterances are the same; choose another --out (--work of "
            f"run.sh), or remove {self.out} to begin anew"
        )

    def kept_split(self, cfg: SplitConfig) -> EarlierSplit | None:
        """The split to keep; None where it is to be drawn anew, because that or other options are given."""
        if cfg.fresh or self.split not in (None, split_options(cfg)):
            return None
        return EarlierSplit(parts=self.parts, methods=self.methods)

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
        gone = Counter((entry.language, self.parts[name]) for name, entry in self.entries.items())
        new, moves, changed = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        for part, entry in ((part, entry) for part, some in entries.items() for entry in some):
            if (old := self.entries.get(entry.id)) is None:
                new[entry.language, part] += 1
                continue
            before = self.parts[entry.id]
            gone[old.language, before] -= 1
            if before != part:
                moves[f"{before} to {part}"] += 1
            changed["another text"] += old.raw_text != entry.raw_text
            changed["other labels"] += old.labels != entry.labels
            changed["other audio files"] += old.stamp != entry.stamp
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
        for difference, count in changed.items():
            if count:
                yield f"utterances with {difference} than before: {count}"


def read_earlier(out: Path) -> Earlier | None:
    """The preparation that a folder holds; None where there is none, or none of its tables can be read."""
    entries: dict[str, Entry] = {}
    parts: dict[str, str] = {}
    damaged = []
    for part in PARTS:
        if not (path := part_path(out, part)).is_file():
            continue
        try:
            for values in Table.open(path).read(*_FIELDS):  # the others would double the memory
                entry = _NOTHING._replace(**dict(zip(_FIELDS, values, strict=True)))
                entries[entry.id], parts[entry.id] = entry, part
        except MayaError:
            damaged.append(part)
    if not entries:
        return None
    summary, splits = read_json(out / "summary.json"), read_json(out / "splits.json")
    stage = read_json(out / "stage.json").get("inputs", {})  # versions before 0.2 wrote it there alone
    return Earlier(
        out=out,
        corpus=summary.get("corpus", stage.get("corpus", "")),
        entries=entries,
        parts=parts,
        methods={language: facts["method"] for language, facts in splits.items()},
        split=summary.get("split_options", stage.get("options", {}).get("split")),
        damaged=damaged,
    )


def corpus_name(corpus: Path) -> str:
    """The name of a corpus: the path of its folder, without links; for `lhotse:NAME:DIR` and
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
