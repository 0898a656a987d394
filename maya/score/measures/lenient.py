"""The lenient score: errors that are left when accepted spellings count as correct.

Words are aligned as for WER, with two more ways to be correct: two words of one form (the rules of
`maya.score.measures.variants`), and a number in digits beside its words (`maya.score.measures.numbers`). The
alignment with the fewest errors wins, and every strict alignment is among those compared, so the lenient
score is never worse than the strict one. The number of reference words stays that of the strict score.

The lenient character score aligns characters after the hypothesis took the reference's spelling wherever the
words were accepted; where that gives more errors, the strict alignment counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maya.errors import MayaError
from maya.score.measures.numbers import readings
from maya.score.measures.variants import one_form
from maya.score.wer import MISSING, ErrorStats, align, cer, wer, words_of


class AlignedSpan(NamedTuple):
    """Words of the reference beside words of the hypothesis, each joined by spaces; "" for none. correct:
    they are equal or accepted for one another."""

    ref: str
    hyp: str
    correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LenientStats:
    """Lenient errors of a list of utterances, in its order."""

    words: ErrorStats
    characters: ErrorStats


class _Move(NamedTuple):
    """A step of the alignment back from one place to an earlier one; correct without an error."""

    refs: int
    hyps: int


def lenient_align(ref: Sequence[str], hyp: Sequence[str], language: str) -> list[AlignedSpan]:
    """An alignment of two lists of words with the fewest lenient errors."""
    ref_forms = [one_form(word, language) for word in ref]
    hyp_forms = [one_form(word, language) for word in hyp]
    numbers = _number_moves(ref_forms, hyp_forms, language)
    if numbers:
        return _search(ref, hyp, ref_forms, hyp_forms, numbers)
    spans = []
    i = j = 0
    for a, b in align(ref_forms, hyp_forms):
        spans.append(AlignedSpan(ref[i] if a else MISSING, hyp[j] if b else MISSING, a == b))
        i, j = i + bool(a), j + bool(b)
    return spans


def lenient_errors(
    refs: Iterable[str], hyps: Iterable[str], languages: Iterable[str], *,
    strict: tuple[ErrorStats, ErrorStats] | None = None,
) -> LenientStats:  # fmt: skip
    """Lenient word and character errors of `hyps` against `refs`; languages: the code of each utterance.
    strict: the results of `wer` and `cer`, where they are there already.

    Raises MayaError if the lists differ in length.
    """
    refs, hyps, languages = list(refs), list(hyps), list(languages)
    strict_words, strict_characters = strict or (wer(refs, hyps), cer(refs, hyps))
    if len(languages) != len(refs):
        raise MayaError(f"{len(languages)} languages for {len(refs)} references; give one for each")
    words, characters = strict_words.counts.copy(), strict_characters.counts.copy()
    for i in np.flatnonzero(strict_words.utterance_errors):
        ref, hyp = words_of(refs[i]), words_of(hyps[i])
        spans = lenient_align(ref, hyp, languages[i])
        words[i] = *_counts(spans), len(ref)
        respelt = " ".join(span.ref if span.correct else span.hyp for span in spans)
        (changed,) = cer([refs[i]], [respelt]).counts
        if changed[:3].sum() < characters[i, :3].sum():
            characters[i] = changed
    return LenientStats(words=ErrorStats(counts=words), characters=ErrorStats(counts=characters))


def _counts(spans: Iterable[AlignedSpan]) -> tuple[int, int, int]:
    """Substitutions, deletions, insertions."""
    wrong = [span for span in spans if not span.correct]
    deletions, insertions = sum(not s.hyp for s in wrong), sum(not s.ref for s in wrong)
    return len(wrong) - deletions - insertions, deletions, insertions


def _number_moves(
    ref: Sequence[str], hyp: Sequence[str], language: str
) -> dict[tuple[int, int], list[_Move]]:
    """By the place in the alignment where they end: numbers in digits on one side, in words on the other."""
    moves: dict[tuple[int, int], list[_Move]] = {}
    for i, j, length in _said_numbers(ref, hyp, language):
        moves.setdefault((i + 1, j + length), []).append(_Move(1, length))
    for j, i, length in _said_numbers(hyp, ref, language):
        moves.setdefault((i + length, j + 1), []).append(_Move(length, 1))
    return moves


def _said_numbers(
    digits: Sequence[str], words: Sequence[str], language: str
) -> Iterable[tuple[int, int, int]]:
    """(place of the digits, place of the words, number of words) wherever `words` say a number."""
    for i, token in enumerate(digits):
        for said in readings(token, language) if token[:1].isdigit() else ():
            for j in range(len(words) - len(said) + 1):
                if tuple(words[j : j + len(said)]) == said:
                    yield i, j, len(said)


def _search(
    ref: Sequence[str], hyp: Sequence[str], ref_forms: Sequence[str], hyp_forms: Sequence[str],
    numbers: dict[tuple[int, int], list[_Move]],
) -> list[AlignedSpan]:  # fmt: skip
    """The edit distance with the moves of `numbers`, which cost nothing; ties: as listed, correct first."""
    n, m = len(ref), len(hyp)
    costs = np.zeros((n + 1, m + 1), np.int64)
    steps: dict[tuple[int, int], tuple[_Move, bool]] = {}
    for i in range(n + 1):
        for j in range(m + 1):
            options: list[tuple[int, _Move, bool]] = [
                (int(costs[i - move.refs, j - move.hyps]), move, True) for move in numbers.get((i, j), ())
            ]
            if i and j:
                same = ref_forms[i - 1] == hyp_forms[j - 1]
                options.append((int(costs[i - 1, j - 1]) + (not same), _Move(1, 1), same))
            if i:
                options.append((int(costs[i - 1, j]) + 1, _Move(1, 0), False))
            if j:
                options.append((int(costs[i, j - 1]) + 1, _Move(0, 1), False))
            if options:
                cost, move, correct = min(options, key=lambda option: option[0])
                costs[i, j], steps[i, j] = cost, (move, correct)
    spans = []
    i, j = n, m
    while i or j:
        move, correct = steps[i, j]
        spans.append(AlignedSpan(" ".join(ref[i - move.refs : i]), " ".join(hyp[j - move.hyps : j]), correct))
        i, j = i - move.refs, j - move.hyps
    return spans[::-1]
