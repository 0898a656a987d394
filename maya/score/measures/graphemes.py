"""The grapheme-cluster error rate: like CER, but a token is what a reader sees as one character.

A code point is a poor unit for Indic scripts: a wrong vowel sign is one error of two code points. Extended
grapheme clusters are those of Unicode Standard Annex 29 with rule GB9c, by which a conjunct such as क्ष is one
cluster. The package `regex` finds them (`\\X`).
"""

from collections.abc import Iterable

import regex

from maya.score.wer import ErrorStats, count_errors, words_of

_CLUSTER = regex.compile(r"\X")


def graphemes_of(text: str) -> list[str]:
    """The extended grapheme clusters of the composed (NFC) text, with one space between words."""
    clusters: list[str] = _CLUSTER.findall(" ".join(words_of(text)))
    return clusters


def grapheme_errors(refs: Iterable[str], hyps: Iterable[str]) -> ErrorStats:
    """Errors of `hyps` against `refs`: like `maya.score.wer.cer`, with the tokens of `graphemes_of`."""
    return count_errors(refs, hyps, graphemes_of)
