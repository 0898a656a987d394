"""The tokenizer of NeMo's character models: a list of labels, mostly single characters, and no model."""

import json
from collections.abc import Sequence
from typing import Any

from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

MAGIC = b"maya-characters-1\n"


class CharacterTokenizer(Tokenizer):
    """A token for each label; characters without one are left out, as in NeMo's CharParser. `model_bytes` is
    MAGIC and a list of the labels in JSON."""

    def __init__(self, labels: Sequence[str]) -> None:
        if not labels or not all(isinstance(x, str) and x for x in labels) or len({*labels}) != len(labels):
            raise MayaError("the labels of a character tokenizer are texts, each once")
        self.labels = tuple(labels)
        self.model_bytes = MAGIC + json.dumps(self.labels, ensure_ascii=False).encode()
        self._ids = {label: i for i, label in enumerate(self.labels)}

    @property
    def vocab_size(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @property
    def unk_id(self) -> int:
        """-1: none."""
        return -1

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of the characters; a word that is a label of its own is one token."""
        units: list[str] = []
        for word in text.split(" "):
            units += [" ", *([word] if len(word) > 1 and word in self._ids else word)]
        return [self._ids[unit] for unit in units[1:] if unit in self._ids]

    def encode_batch(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.labels[int(i)] for i in ids).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The label of each id; the space is ▁."""
        return [self.labels[int(i)].replace(" ", "▁") for i in ids]

    def scores(self, ids: Sequence[int]) -> list[float]:
        """0 for each id: labels have no scores."""
        return [0.0] * len(ids)

    def is_byte(self, id: int) -> bool:
        return False

    def __reduce__(self) -> Any:
        return characters_from_bytes, (self.model_bytes,)


def characters_from_bytes(model_bytes: bytes) -> CharacterTokenizer:
    """The tokenizer with these `model_bytes`. Raises MayaError for other bytes."""
    try:
        labels = json.loads(model_bytes.removeprefix(MAGIC)) if model_bytes.startswith(MAGIC) else None
    except ValueError:
        labels = None
    if not isinstance(labels, list):
        raise MayaError("this is not a character tokenizer, or it is truncated")
    return CharacterTokenizer(labels)
