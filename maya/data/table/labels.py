"""Labels of utterances as columns: a code for each utterance, and the values in memory once."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PSEUDO = "pseudo_label"
"""The label of utterances whose text a model wrote; its value is the model's confidence. They are trained on,
and nothing is scored on them."""
NO_TRUTH = f"have texts that a model wrote (label {PSEUDO}): nothing can be measured on them"

Column = tuple[NDArray[np.int32], pa.Array]  # (n,) index of each row's value, -1 for none; the values


class LabelColumns:
    """Labels of n utterances by name; "speaker" is one of them."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = dict(columns)

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, str | None]]) -> "LabelColumns":
        """The columns of labels that are in memory, one mapping for each utterance."""
        names = dict.fromkeys(["speaker", *(name for row in rows for name in row)])
        return cls(
            {name: encoded([pa.array([row.get(name) for row in rows], pa.string())]) for name in names}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the labels that some utterance has, and "speaker"."""
        return tuple(self._columns)

    def codes(self, name: str) -> NDArray[np.int32]:
        """(n,) a number for each value of a label, -1 where a row has none."""
        return self._columns[name][0]

    def batch(self, rows: Sequence[int]) -> dict[str, list[str | None]]:
        """The values of these rows for each name; None where a row has none."""
        return {
            name: [values[code].as_py() if code >= 0 else None for code in codes[list(rows)].tolist()]
            for name, (codes, values) in self._columns.items()
        }


def encoded(chunks: Iterable[pa.Array]) -> Column:
    """Texts, some None, as codes and values."""
    parts = [chunk.dictionary_encode() for chunk in chunks]
    column = pa.chunked_array(parts, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    if not column.num_chunks:
        return np.zeros(0, np.int32), pa.array([], pa.string())
    codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(codes).astype(np.int32, copy=False), column.chunk(0).dictionary
