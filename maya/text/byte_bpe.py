"""icefall's byte-level BPE: SentencePiece over printable stand-ins for the bytes of UTF-8.

The table of stand-ins and the rules are those of icefall's byte_utils, which follow fairseq's
(Wang et al. 2019, arXiv:1909.03341).
"""

import re
from collections.abc import Sequence
from typing import Any

from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

MAGIC = b"maya-byte-bpe-1\n"
# (first byte, last byte, stand-in of the first); space and printable ASCII stand for themselves.
_RUNS = (
    (0, 31, 0x100), (32, 126, 32), (127, 144, 0x120), (145, 155, 0x134), (156, 163, 0x141), (164, 216, 0x14A),
    (217, 255, 0x180),
)  # fmt: skip
STAND_INS = {byte: chr(first + byte - low) for low, high, first in _RUNS for byte in range(low, high + 1)}
_BYTES = {char: byte for byte, char in STAND_INS.items()}
# Characters that are words of their own: CJK, kana, Hangul, full-width forms.
_ALONE = re.compile(
    "([\u1100-\u11ff\u2e80-\ua4cf\ua840-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff65-\uffdc\U00020000-\U0002ffff])"
)


class ByteBPETokenizer(Tokenizer):
    """A SentencePiece model over stand-ins. `pieces` are of stand-ins, texts are upper-cased as in training.

    `model_bytes` is MAGIC, then the SentencePiece model, which alone is `sentencepiece`.
    """

    def __init__(self, sentencepiece: bytes) -> None:
        super().__init__(sentencepiece)
        self.sentencepiece, self.model_bytes = sentencepiece, MAGIC + sentencepiece

    def encode(self, text: str, language: str | None = None) -> list[int]:
        return super().encode(spelt(text))

    def encode_batch(
        self, texts: Sequence[str], languages: Sequence[str | None] | None = None
    ) -> list[list[int]]:
        return super().encode_batch([spelt(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        return read(super().decode(ids))

    def __reduce__(self) -> Any:
        return byte_bpe_from_bytes, (self.model_bytes,)


def byte_bpe_from_bytes(model_bytes: bytes) -> ByteBPETokenizer:
    """The tokenizer with these `model_bytes`. Raises MayaError for other bytes."""
    if not model_bytes.startswith(MAGIC):
        raise MayaError("this is not a byte-level BPE tokenizer")
    return ByteBPETokenizer(model_bytes[len(MAGIC) :])


def is_byte_bpe(pieces: Sequence[str]) -> bool:
    """Whether the pieces are of stand-ins, by sherpa-onnx's rule: these end at U+01A6, whose UTF-8 begins
    with 0xC6, the highest byte there is in them."""
    highest = max((max(piece.removeprefix("▁").encode(), default=0) for piece in pieces), default=0)
    return highest == 0xC6


def spelt(text: str) -> str:
    """A text in stand-ins: upper case, characters of unspaced scripts by themselves."""
    words = " ".join(part.strip() for part in _ALONE.split(text.upper()) if part.strip())
    return "".join(STAND_INS[byte] for byte in " ".join(words.split()).encode())


def read(stand_ins: str) -> str:
    """The text of stand-ins; other signs are skipped. Of bytes that are no UTF-8, as many characters as
    possible are kept."""
    data = bytes(_BYTES[char] for char in stand_ins if char in _BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _most_characters(data)


def _most_characters(data: bytes) -> str:
    """The longest text of characters of 1 to 4 bytes that stand in `data` in this order."""
    best: list[tuple[int, int]] = [(0, 0)]  # characters up to here, and where the last one begins
    for end in range(1, len(data) + 1):
        choice = best[end - 1][0], end - 1
        for begin in range(end - 1, max(-1, end - 5), -1):
            if best[begin][0] + 1 > choice[0] and _character(data[begin:end]):
                choice = best[begin][0] + 1, begin
        best.append(choice)
    text, end = "", len(data)
    while end:
        count, begin = best[end]
        text = (_character(data[begin:end]) if count > best[begin][0] else "") + text
        end = begin
    return text


def _character(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""
