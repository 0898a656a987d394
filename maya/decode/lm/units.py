"""What the words of an n-gram file stand for: tokens of the model, in one of three spellings, or words."""

from collections.abc import Sequence
from typing import Literal

from maya.decode.lm.arpa import BEGIN, END, UNKNOWN, Arpa
from maya.decode.lm.vocabulary import BYTE_SPACE, SPACE, Vocabulary
from maya.errors import MayaError

Units = Literal["auto", "pieces", "ids", "nemo", "words"]
NEMO_OFFSET = 100  # NeMo writes token i as the character with code point i + 100
_SPECIAL = frozenset((BEGIN, END, UNKNOWN, "<UNK>", "<eps>", "#0"))
_SAME_TOKENIZER = 0.9  # of the pieces of a model over tokens are tokens, or it is of another tokenizer


def token_words(vocab: Vocabulary, units: Units = "pieces") -> list[str]:
    """(V,) what a model of such units calls each token; "" for blank and for outputs that are no tokens.
    Pieces that occur twice, as in aggregate tokenizers, are named by their ids."""
    tokens = [i if piece and i != vocab.blank else -1 for i, piece in enumerate(vocab.pieces)]
    if units == "nemo":
        return [chr(i + NEMO_OFFSET) if i >= 0 else "" for i in tokens]
    pieces = [vocab.pieces[i] for i in tokens if i >= 0]
    spaced = any(set(piece) & set(" \t\n\r") for piece in pieces)
    if units == "ids" or len(set(pieces)) < len(pieces) or spaced:
        return [str(i) if i >= 0 else "" for i in tokens]
    # A piece may be spelt as a special word of ARPA files; SentencePiece's <unk> is one.
    return [("" if i < 0 else vocab.pieces[i] if vocab.pieces[i] not in (BEGIN, END) else str(i))
            for i in tokens]  # fmt: skip


def units_of(arpa: Arpa, vocab: Vocabulary, name: str) -> Units:
    """The units of a model. name: of its file, for messages. Raises MayaError for one of another
    tokenizer."""
    words = [word for word in arpa.words if word not in _SPECIAL]
    if not words:
        raise MayaError(f"{name} has no words")
    pieces = set(token_words(vocab))
    shared = sum(word in pieces for word in words) / len(words)
    if shared >= _SAME_TOKENIZER:
        return "pieces"
    if all(word.isdecimal() and word.isascii() for word in words):
        if max(map(int, words)) < vocab.outputs:
            return "ids"
        raise MayaError(
            f"{name} has token ids up to {max(map(int, words))}, and this model has {vocab.outputs} outputs: "
            "it was made with another tokenizer"
        )
    if all(len(word) == 1 and NEMO_OFFSET <= ord(word) < NEMO_OFFSET + vocab.outputs for word in words):
        return "nemo"
    if sum(word.startswith((SPACE, BYTE_SPACE)) for word in words) > len(words) / 100:
        raise MayaError(
            f"{name} is over the tokens of another tokenizer: only {shared:.0%} of its units are tokens of "
            "this model; estimate it again with `maya lm` and this model"
        )
    _check_words(words, vocab, name)
    return "words"


def _check_words(words: Sequence[str], vocab: Vocabulary, name: str) -> None:
    """Raises MayaError if the tokenizer can write hardly any of the words."""
    sample = words[:: max(1, len(words) // 500)]
    letters = {char for piece in vocab.pieces for char in piece}
    if any(vocab.tokenizer.is_byte(i) for i in range(vocab.tokenizer.vocab_size)):
        return
    written = sum(all(char in letters for char in word) for word in sample)
    if written < len(sample) / 2:
        raise MayaError(
            f"{name} does not fit this model: its tokenizer can write only {written / len(sample):.0%} of "
            f"the "
            "model's words; take one of the same language and spelling (lower case, no punctuation)"
        )
