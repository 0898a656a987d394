"""A tokenizer for each language, joined into one vocabulary: NeMo's `tokenizer.type: agg`."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

MAGIC = b"maya-aggregate-tokenizer-1\n"


class AggregateTokenizer(Tokenizer):
    """Tokenizers of several languages; the ids of each begin where the ids of the previous one end.

    Encoding needs the language of a text; ids determine their language. `model_bytes` is MAGIC, a line of
    JSON with (language, size in bytes) of each model, then the models.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        if not tokenizers:
            raise MayaError("an aggregate tokenizer needs at least one language")
        self.parts = dict(tokenizers)
        self._offsets: dict[str, int] = {}
        size = 0
        for language, part in self.parts.items():
            self._offsets[language] = size
            size += part.vocab_size
        self._size = size
        sizes = [(language, len(part.model_bytes)) for language, part in self.parts.items()]
        head = json.dumps(sizes, ensure_ascii=False).encode() + b"\n"
        self.model_bytes = MAGIC + head + b"".join(part.model_bytes for part in self.parts.values())

    @property
    def languages(self) -> tuple[str, ...]:
        """The language codes, in the order of their ids."""
        return tuple(self.parts)

    @property
    def vocab_size(self) -> int:
        return self._size

    @property
    def unk_id(self) -> int:
        """The unknown piece of the first language; each language has its own."""
        return next(iter(self.parts.values())).unk_id

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a normalised text. Raises MayaError for a `language` that has no tokenizer."""
        part = self.parts.get(language or "")
        if part is None:
            raise MayaError(
                f"no tokenizer for language {language!r}: this model has a tokenizer for each of "
                f"{', '.join(self.parts)}; name one of them"
            )
        offset = self._offsets[language or ""]
        return [offset + i for i in part.encode(text)]

    def encode_batch(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[list[int]]:
        codes = languages if languages is not None else [None] * len(texts)
        return [self.encode(text, code) for text, code in zip(texts, codes, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        text = ""
        for language, run in groupby(self._split(ids), key=lambda pair: pair[0]):
            part, own = self.parts[language], [i for _, i in run]
            starts_a_word = part.pieces(own[:1])[0].startswith("▁")
            text += (" " if starts_a_word else "") + part.decode(own)
        return text.strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.parts[language].pieces([i])[0] for language, i in self._split(ids)]

    def is_byte(self, id: int) -> bool:
        ((language, own),) = self._split([id])
        return self.parts[language].is_byte(own)

    def scores(self, ids: Sequence[int]) -> list[float]:
        return [self.parts[language].scores([i])[0] for language, i in self._split(ids)]

    def _split(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """(language, id within its tokenizer) of each id."""
        pairs = []
        for i in map(int, ids):
            if not 0 <= i < self._size:
                raise IndexError(f"id {i} is outside the vocabulary of {self._size} pieces")
            language = next(code for code in reversed(self.parts) if self._offsets[code] <= i)
            pairs.append((language, i - self._offsets[language]))
        return pairs

    def __reduce__(self) -> Any:
        return aggregate_from_bytes, (self.model_bytes,)


def aggregate_from_bytes(model_bytes: bytes) -> AggregateTokenizer:
    """The tokenizer with these `model_bytes`. Raises MayaError for other bytes."""
    head, newline, models = model_bytes[len(MAGIC) :].partition(b"\n")
    try:
        if not model_bytes.startswith(MAGIC) or not newline:
            raise ValueError
        sizes = [(str(code), int(size)) for code, size in json.loads(head)]
        if not sizes or sum(size for _, size in sizes) != len(models):
            raise ValueError
    except (ValueError, TypeError):
        raise MayaError("this is not an aggregate tokenizer, or it is truncated") from None
    parts, begin = {}, 0
    for code, size in sizes:
        parts[code] = Tokenizer(models[begin : begin + size])
        begin += size
    return AggregateTokenizer(parts)
