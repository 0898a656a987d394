"""Punctuation marks and capitals of written words, apart from the words."""

import unicodedata

from maya.text.languages import LANGUAGES

# Marks that a mark of the table stands for, in any script; semicolons and colons count as commas.
_KINDS = {",": ",;:،؛、，；：", ".": ".।॥۔。．։።။…", "?": "?؟？⸮", "!": "!！"}
_KIND_OF = {mark: kind for kind, marks in _KINDS.items() for mark in marks}
_DANDA_SCRIPTS = frozenset({"Deva", "Beng", "Orya", "Guru"})
_FULL_STOP = frozenset({"mr", "kok"})  # languages of these scripts that write a full stop today
LOWER, CAPITAL, UPPER = range(3)  # classes of case


def split_written(word: str) -> tuple[str, str]:
    """(the word without punctuation at its ends, its mark): "Yes," → ("Yes", ","). The mark is one of , . ? !
    or "". Those of other scripts are among them ("है।" → "."); of several the strongest counts: ?! is ?.
    Quotation marks and brackets are none."""
    bare = word.strip("".join({c for c in word if unicodedata.category(c)[0] in "PS"}))
    tail = word[word.rindex(bare) + len(bare) :] if bare else word
    kinds = {_KIND_OF[char] for char in tail if char in _KIND_OF}
    return bare, max(kinds, key=",.!?".index, default="")


def case_of(word: str) -> int | None:
    """The class of case of a word: LOWER, CAPITAL or UPPER; None for a script without case."""
    if word.lower() == word.upper():
        return None
    letters = [c for c in word if c.lower() != c.upper()]
    if len(letters) > 1 and all(c.isupper() for c in letters):
        return UPPER
    return CAPITAL if letters[0] != letters[0].lower() else LOWER


def write_word(word: str, mark: str, case: int, language: str | None) -> str:
    """A word with its capitals and its mark; the full stop is that of the language. What the word has already
    stays: "हाँ", "." → "हाँ।"."""
    bare, own = split_written(word)
    if bare and case == UPPER:
        word = word.replace(bare, bare.upper(), 1)
    elif bare and case == CAPITAL:
        word = word.replace(bare, bare[:1].upper() + bare[1:], 1)
    return word if own or not bare else word + (full_stop(language) if mark == "." else mark)


def full_stop(language: str | None) -> str:
    """The mark that ends a sentence: a danda in the scripts of Hindi, Bengali, Odia and Punjabi."""
    own = LANGUAGES.get(language or "")
    return "।" if own and own.script in _DANDA_SCRIPTS and own.code not in _FULL_STOP else "."
