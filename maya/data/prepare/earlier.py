"""An earlier preparation in the output folder of `maya prepare`, and whether a corpus is the same.

Runs lie beside the prepared data and belong to them. So another corpus is refused, while one that moved, grew
or was corrected keeps its split, and the changes are reported.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.config import to_dict
from maya.data.corpus.folder import is_named
from maya.data.corpus.manifest import PARTS
from maya.data.prepare.columns import Keys, key, keys, labels_key
from maya.data.prepare.shards import Shards
from maya.data.prepare.split import SplitConfig
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.files import read_json

_ALIKE = 0.5  # share of the utterances that must be the same for a corpus to be the same
_SLACK = 0.02  # seconds by which the durations of the same audio may differ
_AT_ONCE = 1 << 20  # utterances


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Earlier:
    """An earlier preparation of n utterances. corpus: its name (see `corpus_name`), "" where the folder does
    not say; ids: (n,) their keys (see columns), sorted; parts: (n,) as numbers of PARTS; texts, languages,
    labels: (n,) keys of the published texts, the codes and the labels; durations, sizes, times: (n,) of the
    audio; methods: of the split, by language; split: its options, None where unknown; damaged: parts whose
    tables cannot be read."""

    out: Path
    corpus: str
    ids: Keys
    parts: NDArray[np.int8]
    texts: Keys
    languages: NDArray[np.int16]
    codes: Sequence[str]
    labels: Keys
    durations: NDArray[np.float64]
    sizes: NDArray[np.int64]
    times: NDArray[np.int64]
    methods: Mapping[str, str]
    split: dict[str, Any] | None
    damaged: Sequence[str] = ()

    def find(self, ids: Keys) -> NDArray[np.int64]:
        """(m,) the places of these keys of ids; -1 for new ones."""
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, places, -1)

    def parts_of(self, ids: Keys) -> NDArray[np.int8]:
        """(m,) the parts of these utterances; -1 for new ones."""
        places = self.find(ids)
        return np.where(places >= 0, self.parts[places], -1).astype(np.int8)

    def check_ids(self, corpus: str, ids: Keys, texts: Keys, languages: Keys) -> None:
        """Raise MayaError where the rows, as read, are those of another corpus than the earlier. ids, texts,
        languages: (m,) keys."""
        places = self.find(ids)
        shared = places >= 0
        if self.moved(corpus):
            here = places[shared]
            codes = keys(self.codes)[self.languages[here]]
            same = (self.texts[here] == texts[shared]) & (codes == languages[shared])
            self._refuse(corpus, int(same.sum()), len(self.ids))
        else:
            self._refuse(corpus, int(shared.sum()), min(len(self.ids), len(ids)))

    def check_audio(self, corpus: str, shards: Shards) -> None:
        """The same of utterances whose audio was measured: other speech under the same names is refused."""
        places = self.find(shards.extra("id"))
        shared = places >= 0
        here = places[shared]
        same_text = self.texts[here] == shards.extra("raw_text")[shared]
        same_length = np.abs(self.durations[here] - shards.numbers("duration")[shared]) <= _SLACK
        same = same_text & same_length if self.moved(corpus) else same_text | same_length
        self._refuse(corpus, int(same.sum()), len(here))

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

    def keeps_split(self, cfg: SplitConfig) -> bool:
        """Whether its split is to be kept; not where that or other options are given."""
        return not cfg.fresh and self.split in (None, split_options(cfg))

    def changes(self, corpus: str, shards: Shards, parts: NDArray[np.int8], cfg: SplitConfig) -> list[str]:
        """Sentences for people: what is new, gone and different in these utterances. parts: (m,), -1 for one
        that is not kept."""
        return [*self._sentences(corpus, shards, parts, cfg)]

    def _sentences(
        self, corpus: str, shards: Shards, parts: NDArray[np.int8], cfg: SplitConfig
    ) -> Iterator[str]:
        if self.moved(corpus):
            yield f"the corpus was in {self.corpus} before and is in {corpus} now"
        if self.damaged:
            yield f"the split of {', '.join(self.damaged)} is lost, because these tables cannot be read"
        places = self.find(shards.extra("id"))
        numbers, codes = shards.languages
        fresh, again = (parts >= 0) & (places < 0), np.flatnonzero((parts >= 0) & (places >= 0))
        here = places[again]
        gone = np.ones(len(self.ids), np.bool_)
        gone[here] = False
        if self.keeps_split(cfg):
            yield f"the earlier split of {len(self.ids) - gone.sum()} utterances is kept"
        else:
            why = "split.fresh is true" if cfg.fresh else "its options changed"
            yield f"the split is drawn anew, because {why}"
        if fresh.any():
            yield f"new utterances: {fresh.sum()} ({_by_language(numbers[fresh], codes, parts[fresh])})"
        if gone.any():
            named = _by_language(self.languages[gone], self.codes, self.parts[gone])
            yield f"earlier utterances that are gone: {gone.sum()} ({named})"
        before, now = self.parts[here], parts[again]
        moves = Counter(zip(before[before != now].tolist(), now[before != now].tolist(), strict=True))
        if moves:
            named_moves = {f"{PARTS[a]} to {PARTS[b]}": count for (a, b), count in moves.items()}
            counts = ", ".join(f"{count} from {move}" for move, count in sorted(named_moves.items()))
            why = "because the corpus says so; " if self.keeps_split(cfg) else ""
            yield f"utterances changed their part: {counts}; {why}a model trained before may have seen them"
        audio = (self.sizes[here] != shards.numbers("file_size")[again]) | (
            self.times[here] != shards.numbers("file_mtime")[again]
        )
        differences = {
            "another text": self.texts[here] != shards.extra("raw_text")[again],
            "other labels": self.labels[here] != shards.extra("labels")[again],
            "other audio files": audio,
        }
        for difference, different in differences.items():
            if count := int(different.sum()):
                yield f"utterances with {difference} than before: {count}"


def read_earlier(out: Path) -> Earlier | None:
    """The preparation that a folder holds; None where there is none, or none of its tables can be read."""
    codes: dict[str, int] = {}
    tables, damaged = [], []
    for number, part in enumerate(PARTS):
        if not (path := part_path(out, part)).is_file():
            continue
        try:
            tables.append(_columns(Table.open(path), number, codes))
        except MayaError:
            damaged.append(part)
    columns = {name: np.concatenate([some[name] for some in tables]) for name in tables[0]} if tables else {}
    if not tables or not len(columns["ids"]):
        return None
    order = np.argsort(columns["ids"], kind="stable")
    summary, splits = read_json(out / "summary.json"), read_json(out / "splits.json")
    stage = read_json(out / "stage.json").get("inputs", {})  # versions before 0.2 wrote it there alone
    return Earlier(
        out=out,
        corpus=summary.get("corpus", stage.get("corpus", "")),
        codes=list(codes),
        **{name: column[order] for name, column in columns.items()},
        methods={language: facts["method"] for language, facts in splits.items()},
        split=summary.get("split_options", stage.get("options", {}).get("split")),
        damaged=damaged,
    )


def _columns(table: Table, part: int, codes: dict[str, int]) -> dict[str, NDArray[Any]]:
    """The columns of a table that are compared."""
    numbers, names = table.codes("language")
    index = np.array([codes.setdefault(name, len(codes)) for name in names], np.int16)
    rows = table.read("id", "raw_text", "labels")
    parts = [np.zeros((0, 3), np.uint64)]
    while some := [(key(a), key(b), labels_key(c)) for a, b, c in islice(rows, _AT_ONCE)]:
        parts.append(np.array(some, np.uint64))
    ids, texts, labels = np.concatenate(parts).T
    return {
        "ids": ids, "texts": texts, "labels": labels, "languages": index[numbers],
        "parts": np.full(len(ids), part, np.int8), "durations": table.numbers("duration"),
        "sizes": table.numbers("file_size"), "times": table.numbers("file_mtime"),
    }  # fmt: skip


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


def _by_language(languages: NDArray[np.int16], codes: Sequence[str], parts: NDArray[np.int8]) -> str:
    """`hi train 5 test 1, kn dev 2`"""
    texts: dict[str, str] = {}
    pairs, counts = np.unique(np.stack([languages, parts]), axis=1, return_counts=True)
    for (language, part), count in sorted(
        ((codes[language], part), count)
        for (language, part), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    ):
        texts[language] = f"{texts.get(language, language)} {PARTS[part]} {count}"
    return ", ".join(texts.values())
