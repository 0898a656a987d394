"""Utterances as columns: what planning and loading need of each, in little memory.

Those of a prepared table stay in it: a column is an array, its audio is looked up and its tokens are mapped,
so that ten million open in seconds and in about 1 GB, whatever the number of workers. Those of any other
CutSet are read once and kept serialised (maya.data.table.packed).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from numpy.typing import NDArray

from maya.data.loading.batch import check_cut, language_index
from maya.data.table.packed import PackedCuts
from maya.data.table.table import Table
from maya.data.table.token_table import TokenTable
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

_ENCODE_AT_ONCE = 4096
T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """What has a value for each number of an utterance."""

    def __getitem__(self, index: int, /) -> T_co: ...


class Utterances:
    """n utterances with one text each, in the order they came.

    ids: n names; durations: (n,) seconds; langs: (n,) index into `languages`, -1 if not there;
    token_counts: (n,).
    """

    def __init__(
        self,
        ids: Sequence[str],
        durations: NDArray[np.float64],
        langs: NDArray[np.integer],
        token_counts: NDArray[np.integer],
        tokens: Indexed[NDArray[np.int32]],
        cuts: Indexed[Cut],
    ) -> None:
        self.ids = ids
        self.durations, self.langs, self.token_counts = durations, langs, token_counts
        self._tokens, self._cuts = tokens, cuts

    @classmethod
    def from_cuts(cls, cuts: CutSet, tokenizer: Tokenizer, languages: Sequence[str]) -> "Utterances":
        """Read a CutSet once, lazily or not, and encode its texts (already normalised).

        Raises MayaError when it is empty, an id occurs twice, or a cut is not one utterance.
        """
        ids: list[str] = []
        durations: list[float] = []
        langs: list[int] = []
        texts: list[str] = []
        codes: list[str | None] = []
        packed = PackedCuts()
        for cut in cuts:
            check_cut(cut)
            supervision = cut.supervisions[0]
            ids.append(cut.id)
            durations.append(cut.duration)
            langs.append(language_index(supervision.language, languages))
            texts.append(supervision.text or "")
            codes.append(supervision.language)
            packed.append(cut)
        if not ids:
            raise MayaError("the set of cuts is empty")
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise MayaError(f"the set of cuts has two utterances with the id {twice!r}")
        tokens = _Encoded(texts, codes, tokenizer)
        return cls(
            ids, np.asarray(durations, np.float64), np.asarray(langs, np.int64), tokens.counts, tokens, packed
        )

    @classmethod
    def from_table(
        cls,
        table: Table,
        tokens: TokenTable | Tokenizer,
        languages: Sequence[str],
        rows: NDArray[np.integer] | None = None,
    ) -> "Utterances":
        """The utterances of a prepared table, or of these rows of it, in that order.

        tokens: those of the table, or a tokenizer, which then encodes the texts into memory: for a few. Their
        cuts tell where the audio is and not what is said. Raises MayaError when there are none.
        """
        if not len(table) if rows is None else not len(rows):
            raise MayaError(f"{table.path} has no utterance for this; look at dropped.jsonl for the reasons")
        codes, names = table.codes("language")
        index = np.array([*(language_index(name, languages) for name in names), -1], np.int16)
        durations, langs, ids = table.durations, index[codes], table.ids
        counts: NDArray[np.integer]
        if isinstance(tokens, Tokenizer):
            entries = list(table.entries(rows))
            encoded = _Encoded([e.text for e in entries], [e.language for e in entries], tokens)
            counts, found = encoded.counts, encoded
        else:
            counts, found = tokens.counts if rows is None else tokens.counts[rows], _picked(tokens, rows)
        if rows is not None:
            durations, langs, ids = durations[rows], langs[rows], _picked(ids, rows)
        return cls(ids, durations, langs, counts, found, _picked(_AudioCuts(table), rows))

    def __len__(self) -> int:
        return len(self.durations)

    def cut(self, index: int) -> Cut:
        """The lhotse cut of an utterance; of a table's, without its supervision."""
        return self._cuts[index]

    def tokens(self, index: int) -> NDArray[np.int32]:
        """(U,) token ids of an utterance."""
        return self._tokens[index]


class _Encoded:
    """Token ids of texts, one after the other."""

    def __init__(self, texts: Sequence[str], languages: Sequence[str | None], tokenizer: Tokenizer) -> None:
        parts = _encode(texts, languages, tokenizer)
        self.counts: NDArray[np.int64] = np.array([len(ids) for ids in parts], np.int64)
        self._ids = np.concatenate([np.zeros(0, np.int32), *parts])
        self._ends = np.cumsum(self.counts)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self._ids[self._ends[index] - self.counts[index] : self._ends[index]]


class _AudioCuts:
    """The cuts of a table, without what is said."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __getitem__(self, index: int) -> Cut:
        return self._table.audio_cut(index)


class _Picked(Sequence[Any]):
    """Some of a sequence, by number."""

    def __init__(self, of: Indexed[Any], rows: NDArray[np.integer]) -> None:
        self._of, self._rows = of, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._of[int(row)] for row in self._rows[index]]
        return self._of[int(self._rows[index])]


def _picked(of: Any, rows: NDArray[np.integer] | None) -> Any:
    return of if rows is None else _Picked(of, rows)


def encode_cuts(cuts: Iterable[Cut], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each cut's text, in order."""
    pairs = [(cut.supervisions[0].text or "", cut.supervisions[0].language) for cut in cuts]
    return [ids.tolist() for ids in _encode([t for t, _ in pairs], [c for _, c in pairs], tokenizer)]


def _encode(
    texts: Sequence[str], languages: Sequence[str | None], tokenizer: Tokenizer
) -> list[NDArray[np.int32]]:
    encoded: list[NDArray[np.int32]] = []
    for begin in range(0, len(texts), _ENCODE_AT_ONCE):
        end = begin + _ENCODE_AT_ONCE
        some = tokenizer.encode_batch(texts[begin:end], languages[begin:end])
        encoded += [np.asarray(ids, dtype=np.int32) for ids in some]
    return encoded
