"""The token ids of a table's texts for one tokenizer, written once and mapped into memory.

They belong to a table and a tokenizer together, so they lie beside the tokenizer and not in the table: two
runs with two tokenizers then share a table, which stays the same bytes. The file is Arrow's, uncompressed:
any row is found at once, and all processes of a machine share its pages.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maya.data.table.alignable import ctc_frames
from maya.data.table.table import Table
from maya.errors import MayaError
from maya.files import replacing, sha256
from maya.text.tokenizer import Tokenizer

_ENCODED_AT_ONCE = 16_384


class TokenTable:
    """counts: (n,) int32 tokens of each row's text; ctc_frames: (n,) int32 frames that CTC needs for them
    (see maya.data.table.alignable)."""

    def __init__(self, path: Path, chunks: pa.Table) -> None:
        self.path, self.identity = path, chunks.schema.metadata or {}
        chunks.validate(full=True)  # the file has no checksum: offsets must not lead outside the ids
        lists = chunks.column("tokens").chunks
        self._ids: list[NDArray[np.integer]] = [chunk.values.to_numpy() for chunk in lists]
        self._offsets: list[NDArray[np.int32]] = [chunk.offsets.to_numpy() for chunk in lists]
        self._ends = np.cumsum([0, *map(len, lists)])
        self.ctc_frames: NDArray[np.int32] = chunks.column("ctc_frames").to_numpy()
        self.counts: NDArray[np.int32] = np.concatenate(
            [np.zeros(0, np.int32), *(np.diff(offsets) for offsets in self._offsets)]
        )

    def __len__(self) -> int:
        return len(self.counts)

    def __reduce__(self) -> tuple[Any, ...]:
        """A spawned worker maps it again."""
        return _mapped, (self.path,)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """(U,) token ids of a row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        chunk = int(np.searchsorted(self._ends, row, side="right")) - 1
        offsets, place = self._offsets[chunk], row - int(self._ends[chunk])
        return self._ids[chunk][offsets[place] : offsets[place + 1]].astype(np.int32)


def token_path(run: Path, part: str) -> Path:
    """Where the tokens of a part lie in the folder of a tokenizer."""
    return run / f"tokens_{part}.arrow"


def write_tokens(path: Path, table: Table, tokenizer: Tokenizer) -> TokenTable:
    """Encode every text of a table, some thousands in memory at a time; `path` appears when all is there."""
    ids = pa.uint16() if tokenizer.vocab_size <= 1 << 16 else pa.int32()
    schema = pa.schema(
        [pa.field("tokens", pa.list_(ids)), pa.field("ctc_frames", pa.int32())],
        metadata=_identity(table, tokenizer),
    )
    with (
        replacing(path) as partial,
        pa.OSFile(str(partial), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for texts, languages in _groups(table):
            writer.write_batch(_encoded(texts, languages, tokenizer, schema))
    return open_tokens(path, table, tokenizer)


def open_tokens(path: Path, table: Table, tokenizer: Tokenizer) -> TokenTable:
    """Map the tokens of a table. Raises MayaError when there are none, they cannot be read, or they are of
    another table or tokenizer."""
    if not path.is_file():
        raise MayaError(f"there are no tokens {path}; run stage 2 (tokenizer) again")
    tokens = _mapped(path)
    if tokens.identity != _identity(table, tokenizer) or len(tokens) != len(table):
        raise MayaError(
            f"{path} holds the tokens of another table than {table.path}, or of another tokenizer; run stage "
            "2 (tokenizer) again"
        )
    return tokens


def _mapped(path: Path) -> TokenTable:
    try:
        return TokenTable(path, pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    except (pa.ArrowException, OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise MayaError(
            f"{path} cannot be read: it is truncated or damaged ({reason}); run stage 2 (tokenizer) again"
        ) from None


def tokens_of(path: Path, table: Table, tokenizer: Tokenizer) -> TokenTable:
    """The tokens at `path`, written there first unless they are those of this table and tokenizer."""
    try:
        return open_tokens(path, table, tokenizer)
    except MayaError:
        return write_tokens(path, table, tokenizer)


def _identity(table: Table, tokenizer: Tokenizer) -> dict[bytes, bytes]:
    model = sha256(tokenizer.model_bytes)
    return {b"maya.tokens": b"1", b"maya.table": table.digest.encode(), b"maya.tokenizer": model.encode()}


def _groups(table: Table) -> Iterator[tuple[list[str], list[str]]]:
    """Texts and their languages."""
    texts: list[str] = []
    languages: list[str] = []
    for text, language in table.read("text", "language"):
        texts.append(text)
        languages.append(language)
        if len(texts) == _ENCODED_AT_ONCE:
            yield texts, languages
            texts, languages = [], []
    if texts:
        yield texts, languages


def _encoded(
    texts: list[str], languages: list[str], tokenizer: Tokenizer, schema: pa.Schema
) -> pa.RecordBatch:
    tokens = tokenizer.encode_batch(texts, languages)
    offsets = np.cumsum([0, *map(len, tokens)]).astype(np.int32)
    flat = np.fromiter((i for ids in tokens for i in ids), np.int32, int(offsets[-1]))
    frames = np.array([ctc_frames(ids) for ids in tokens], np.int32)
    kind = schema.field("tokens").type.value_type
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat).cast(kind))
    return pa.RecordBatch.from_arrays([lists, pa.array(frames)], schema=schema)
