"""The matched-pairs test of two systems on segments of speech (MAPSSWE).

Gillick and Cox, "Some statistical issues in the comparison of speech recognition algorithms", ICASSP 1989. An
utterance is cut where both systems have two or more correct words in a row, as NIST's SCTK does; what lies
between is a segment in which at least one system errs. Errors of different segments are taken as independent.
The test asks whether the mean difference of the systems' errors in a segment is zero.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from maya.score.wer import align, words_of

_CORRECT_BETWEEN = 2  # words that both systems recognise between two segments
FEW = 50  # segments below which the normal approximation is doubtful


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedPairs:
    """segments: with an error of at least one system. mean: errors of the second minus those of the first in
    a segment. z: mean / its standard error. p_value: two-sided, nan with fewer than two segments."""

    segments: int
    mean: float
    z: float
    p_value: float


def matched_pairs(refs: Iterable[str], first: Iterable[str], second: Iterable[str]) -> MatchedPairs:
    """The test for two systems' hypotheses of the same references, in the same order."""
    differences: list[int] = []
    for ref, a, b in zip(refs, first, second, strict=True):
        words = words_of(ref)
        differences += segment_differences(errors_at(words, words_of(a)), errors_at(words, words_of(b)))
    n = len(differences)
    nan = float("nan")
    if n < 2:
        return MatchedPairs(segments=n, mean=float(np.mean(differences)) if n else nan, z=nan, p_value=nan)
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if deviation == 0:
        p_value, z = (1.0, 0.0) if mean == 0 else (0.0, math.copysign(math.inf, mean))
    else:
        z = mean / (deviation / math.sqrt(n))
        p_value = math.erfc(abs(z) / math.sqrt(2))
    return MatchedPairs(segments=n, mean=mean, z=z, p_value=p_value)


def errors_at(ref: Sequence[str], hyp: Sequence[str]) -> list[int]:
    """The errors at each reference word, and in a last place those after it. An inserted word counts at the
    reference word that follows it."""
    errors = [0] * (len(ref) + 1)
    place = 0
    for a, b in align(ref, hyp):
        errors[place] += a != b
        place += bool(a)
    return errors


def segment_differences(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Errors of the second minus those of the first in each segment; arguments: of `errors_at`."""
    differences: list[int] = []
    correct = _CORRECT_BETWEEN  # a segment begins with the first error
    for a, b in zip(first, second, strict=True):
        if not a and not b:
            correct += 1
            continue
        if correct >= _CORRECT_BETWEEN:
            differences.append(0)
        differences[-1] += b - a
        correct = 0
    return differences
