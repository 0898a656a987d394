"""Utterances as columns: what planning and loading need of each, in little memory.

Those of a prepared table stay in it: a column is an array, audio is looked up and tokens are mapped. So ten
million open in seconds and in about 1 GB, whatever the number of workers. Those of any other CutSet are read
once and kept serialised (maya.data.table.packed).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maya.data.table.labels import LabelColumns
from maya.data.table.packed import PackedCuts, check_cut, labels_of
from maya.data.table.table import Table
from maya.data.table.token_table import TokenTable
from maya.errors import MayaError
from maya.text.languages import language_index
from maya.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lhotse import CutSet

_ENCODE_AT_ONCE = 4096
T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """Anything with a value for each number of an utterance."""

    def __getitem__(self, index: int, /) -> T_co: ...


class AudioSource(Protocol):
    """Audio of utterances by number."""

    def load_audio(self, index: int, sample_rate: int | None = None) -> Tensor:
        """(N,) float32 at `sample_rate` Hz (None: as it is stored); MayaError where it cannot be read."""


@dataclass(eq=False, slots=True)
class Utterances:
    """n utterances with one text each, in order.

    ids: n names; durations: (n,) seconds; langs: (n,) index into a model's languages, -1 if it is not one of
    them; token_counts: (n,); token_ids: (U,) of each; source: their audio; columns: their labels, of which
    row `rows[i]` belongs to utterance i (row i without `rows`).
    """

    ids: Sequence[str]
    durations: NDArray[np.float64]
    langs: NDArray[np.integer]
    token_counts: NDArray[np.integer]
    token_ids: Indexed[NDArray[np.int32]]
    source: AudioSource
    columns: LabelColumns
    rows: NDArray[np.integer] | None = None

    @classmethod
    def from_cuts(cls, cuts: "CutSet", tokenizer: Tokenizer, languages: Sequence[str]) -> "Utterances":
        """Read a CutSet once, lazily or not, and encode its texts (already normalised).

        For the labels see `labels_of`. Raises MayaError when
        the set is empty, an id occurs twice, or a cut is not one utterance.
        """
        ids: list[str] = []
        durations: list[float] = []
        texts: list[str] = []
        codes: list[str | None] = []
        labels: list[dict[str, str | None]] = []
        packed = PackedCuts()
        for cut in cuts:
            check_cut(cut)
            supervision = cut.supervisions[0]
            ids.append(cut.id)
            durations.append(cut.duration)
            texts.append(supervision.text or "")
            codes.append(supervision.language)
            labels.append(labels_of(supervision))
            packed.append(cut)
        if not ids:
            raise MayaError("the set of cuts is empty")
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise MayaError(f"the set of cuts has two utterances with the id {twice!r}")
        tokens = EncodedTexts(texts, codes, tokenizer)
        langs = np.array([language_index(code, languages) for code in codes], np.int64)
        columns = LabelColumns.of_rows(labels)
        return cls(ids, np.asarray(durations, np.float64), langs, tokens.counts, tokens, packed, columns)

    @classmethod
    def from_table(
        cls,
        table: Table,
        tokens: TokenTable | Tokenizer,
        languages: Sequence[str],
        rows: NDArray[np.integer] | None = None,
    ) -> "Utterances":
        """The utterances of a prepared table, or of these rows of it, in that order.

        tokens: those of the table, or a tokenizer. A tokenizer encodes the texts into memory, which suits
        small sets. Raises MayaError when there are none.
        """
        if not len(table) if rows is None else not len(rows):
            raise MayaError(f"{table.path} has no utterance for this; look at dropped.jsonl for the reasons")
        codes, names = table.codes("language")
        index = np.array([*(language_index(name, languages) for name in names), -1], np.int16)
        durations, langs, ids = table.durations, index[codes], table.ids
        counts: NDArray[np.integer]
        token_ids: Indexed[NDArray[np.int32]]
        if isinstance(tokens, Tokenizer):
            entries = list(table.entries(rows))
            encoded = EncodedTexts([e.text for e in entries], [e.language for e in entries], tokens)
            counts, token_ids = encoded.counts, encoded
        else:
            counts = tokens.counts if rows is None else tokens.counts[rows]
            token_ids = _picked(tokens, rows)
        if rows is not None:
            durations, langs, ids = durations[rows], langs[rows], _picked(ids, rows)
        return cls(ids, durations, langs, counts, token_ids, _TableAudio(table, rows), table.labels, rows)

    def __len__(self) -> int:
        return len(self.durations)

    @property
    def speakers(self) -> NDArray[np.int32]:
        """(n,) a number for each speaker, -1 where an utterance names none."""
        codes = self.columns.codes("speaker")
        return codes if self.rows is None else codes[self.rows]

    def tokens(self, index: int) -> NDArray[np.int32]:
        """(U,) token ids of an utterance."""
        return self.token_ids[index]

    def labels(self, indices: Sequence[int]) -> dict[str, list[str | None]]:
        """By name, the labels of these utterances; None where an utterance has none."""
        return self.columns.batch(indices if self.rows is None else self.rows[indices].tolist())


class EncodedTexts:
    """Token ids of texts, one after the other. counts: (n,)."""

    def __init__(self, texts: Sequence[str], languages: Sequence[str | None], tokenizer: Tokenizer) -> None:
        parts: list[NDArray[np.int32]] = []
        for begin in range(0, len(texts), _ENCODE_AT_ONCE):
            end = begin + _ENCODE_AT_ONCE
            encoded = tokenizer.encode_batch(texts[begin:end], languages[begin:end])
            parts += [np.asarray(ids, dtype=np.int32) for ids in encoded]
        self.counts: NDArray[np.int64] = np.array([len(ids) for ids in parts], np.int64)
        self._ids = np.concatenate([np.zeros(0, np.int32), *parts])
        self._ends = np.cumsum(self.counts)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self._ids[self._ends[index] - self.counts[index] : self._ends[index]]


class _TableAudio:
    """The audio of a table, or of some of its rows."""

    def __init__(self, table: Table, rows: NDArray[np.integer] | None) -> None:
        self._table, self._rows = table, rows

    def load_audio(self, index: int, sample_rate: int | None = None) -> Tensor:
        row = index if self._rows is None else int(self._rows[index])
        return self._table.audio(row).load_audio(sample_rate)


class _Picked(Sequence[Any]):
    """Some values of a sequence, by number."""

    def __init__(self, values: Indexed[Any], rows: NDArray[np.integer]) -> None:
        self._values, self._rows = values, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._values[int(row)] for row in self._rows[index]]
        return self._values[int(self._rows[index])]


def _picked(values: Any, rows: NDArray[np.integer] | None) -> Any:
    return values if rows is None else _Picked(values, rows)
