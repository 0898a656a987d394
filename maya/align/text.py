"""A user's text as tokens to align: words as they are written, tokens as the model spells them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maya.align.ctc import WILDCARD, Ints
from maya.decode.words import split_words, surfaces
from maya.errors import MayaError
from maya.text.languages import LANGUAGES
from maya.text.normalize import normalize
from maya.text.scripts import main_script
from maya.text.tokenizer import Tokenizer

_NO_LANGUAGE = "en"  # its normal form drops nothing that other scripts write


@dataclass(frozen=True, kw_only=True, slots=True)
class SpelledText:
    """A text of W words with U tokens.

    words: as the user wrote them. lines: for each word the number of its line. tokens (U,): ids; `WILDCARD`
    for a run of characters that the vocabulary lacks. owners (U,): the word of each token, which do not fall.
    """

    words: list[str]
    lines: list[int]
    tokens: Ints
    owners: Ints

    @property
    def first(self) -> Ints:
        """(N,): the first token of each word that has tokens."""
        changes = np.flatnonzero(np.diff(self.owners)) + 1
        return np.concatenate([np.zeros(min(1, len(self.owners)), np.int64), changes])

    @property
    def owners_of_words(self) -> Ints:
        """(N,): the index in `words` of each word that has tokens."""
        return self.owners[self.first]


def spell(text: str, tokenizer: Tokenizer, language: str | None = None) -> SpelledText:
    """The words of a text and their tokens.

    Each word is spelled as it stands or in normal form (`maya.text.normalize`: lower case, no punctuation,
    digits as 0-9), whichever needs fewer unknown pieces. A word without any letter has no tokens. Raises
    MayaError for a text without words.
    """
    normal_language = language or guess_language(text)
    words: list[str] = []
    lines: list[int] = []
    tokens: list[int] = []
    owners: list[int] = []
    spellings: dict[str, tuple[list[int], list[int]]] = {}
    for number, line in enumerate(text.replace("\r", "\n").split("\n")):
        for written in line.split():
            if written not in spellings:
                spellings[written] = _spelled(written, tokenizer, language, normal_language)
            ids, parts = spellings[written]
            owners += [len(words) + part for part in parts]
            tokens += ids
            words += split_words(written)
            lines += [number] * (len(words) - len(lines))
    if not words:
        raise MayaError("the text to align has no words")
    return SpelledText(
        words=words, lines=lines, tokens=np.array(tokens, np.int64), owners=np.array(owners, np.int64)
    )


def guess_language(text: str) -> str:
    """The first language of our table that is written in the script of a text, else English: for the rules of
    its normal form alone."""
    script = main_script([text[:10000]])
    return next((code for code, language in LANGUAGES.items() if language.script == script), _NO_LANGUAGE)


def _spelled(
    written: str, tokenizer: Tokenizer, language: str | None, normal_language: str
) -> tuple[list[int], list[int]]:
    """The tokens of a word, and for each the part of `split_words(word)` to which it belongs."""
    normal = normalize(written, normal_language)
    choices = [
        _tokens(text, tokenizer, language) for text in dict.fromkeys((written, normal, normal.lower()))
    ]
    ids = min(choices, key=lambda ids: ids.count(WILDCARD))
    parts = split_words(written)
    if len(parts) == 1 or not ids:
        return ids, [0] * len(ids)
    sizes = [1 if token == WILDCARD else len(_letters(token, tokenizer)) for token in ids]
    ends = np.cumsum([len(part) for part in parts])
    scale = ends[-1] / max(1, sum(sizes))
    places = [float(x) * scale for x in np.cumsum([0, *sizes[:-1]])]
    return ids, [int(np.searchsorted(ends, place + 1e-6, side="right")) for place in places]


def _letters(token: int, tokenizer: Tokenizer) -> str:
    return "".join(text for text, _, _ in surfaces([token], tokenizer)).strip()


def _tokens(text: str, tokenizer: Tokenizer, language: str | None) -> list[int]:
    """The ids of a text, with `WILDCARD` for each run of unknown pieces and bytes."""
    ids: list[int] = []
    encoded: Sequence[int] = tokenizer.encode(text, language)
    pieces = tokenizer.pieces(encoded)
    for id, piece in zip(encoded, pieces, strict=True):
        is_known = piece != "<unk>" and id != tokenizer.unk_id and not tokenizer.is_byte(id)
        if is_known and not (
            piece == "▁" and len(pieces) > 1 and _unknown_follows(pieces, encoded, tokenizer)
        ):
            ids.append(id)
        elif not ids or ids[-1] != WILDCARD:
            ids.append(WILDCARD)
    return ids


def _unknown_follows(pieces: Sequence[str], ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether the piece after a lone word mark at the start is unknown, which then stands for both."""
    return pieces[0] == "▁" and (pieces[1] == "<unk>" or tokenizer.is_byte(ids[1]))
