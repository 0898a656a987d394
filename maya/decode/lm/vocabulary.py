"""What the tokens of a model spell, and which of them begin a word."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maya.text.llm_tokenizer import LLMTokenizer
from maya.text.tokenizer import Tokenizer

SPACE = "\u2581"  # ▁, SentencePiece's mark of a new word
BYTE_SPACE = "\u0120"  # Ġ, the space of byte-level BPE
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [b for b in range(256) if b not in set(_PRINTABLE)]
# GPT-2's letters for bytes: printable Latin-1 stands for itself, the others follow from U+0100 on.
_BYTES = {chr(b): b for b in _PRINTABLE} | {chr(256 + i): b for i, b in enumerate(_OTHERS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The tokens of a tokenizer, for a model with V outputs, blank among them.

    outputs: V. blank: its id. pieces: of each id, "" for an output that is no token of the tokenizer.
    begins (V,) bool: whether a token begins a word. spellings: UTF-8 of each token without the mark of a new
    word.
    """

    tokenizer: Tokenizer
    outputs: int
    blank: int
    pieces: tuple[str, ...]
    begins: Tensor
    spellings: tuple[bytes, ...]

    def ids(self) -> dict[str, int]:
        """The id of each piece."""
        return {piece: i for i, piece in enumerate(self.pieces) if piece and i != self.blank}


def vocabulary(tokenizer: Tokenizer, outputs: int, blank: int) -> Vocabulary:
    """The tokens of a model with V = `outputs` outputs."""
    count = min(tokenizer.vocab_size, outputs)
    pieces = (*tokenizer.pieces(range(count)), *[""] * (outputs - count))
    marks = (SPACE, BYTE_SPACE) if isinstance(tokenizer, LLMTokenizer) else (SPACE,)
    byte_level = isinstance(tokenizer, LLMTokenizer) and any(BYTE_SPACE in piece for piece in pieces)
    begins = [piece.startswith(marks) for piece in pieces]
    spellings = tuple(
        bytes([int(piece[3:5], 16)]) if i < count and tokenizer.is_byte(i)
        else _spelling(piece[1:] if begins[i] else piece, byte_level)
        for i, piece in enumerate(pieces)
    )  # fmt: skip
    return Vocabulary(
        tokenizer=tokenizer, outputs=outputs, blank=blank, pieces=pieces, begins=torch.tensor(begins),
        spellings=spellings,
    )  # fmt: skip


def _spelling(piece: str, byte_level: bool) -> bytes:
    if byte_level and all(char in _BYTES for char in piece):
        return bytes(_BYTES[char] for char in piece)
    return piece.encode("utf-8", "surrogatepass")
