"""A sample of limited size from a text of any length, with exact counts of the whole text.

A corpus of 100 million lines does not fit into memory, and some hundred thousand lines of each language are
enough to train a tokenizer. Characters are counted in all lines, so that every character in use can get a
piece, also in a small language.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from maya.errors import MayaError


@dataclass(kw_only=True, slots=True)
class LanguageText:
    """The sample of one language: `lines` in their original order. The counts are of all lines."""

    lines: list[str] = field(default_factory=list)
    total_lines: int = 0
    words: int = 0
    characters: Counter[str] = field(default_factory=Counter)  # spaces included

    @property
    def length(self) -> int:
        """Characters of all lines, spaces included."""
        return self.characters.total()


TextSample = dict[str, LanguageText]


def gather(pairs: Iterable[tuple[str, str]], *, lines_per_language: int, seed: int) -> TextSample:
    """Read (language, text) once; keep at most `lines_per_language` lines of each language, every line with
    equal probability. Blank lines are skipped.

    The sample of a language depends only on its own lines and the seed. Memory: about 100 bytes and two bytes
    a character (Indic letters) for each line kept.
    """
    if lines_per_language < 1:
        raise MayaError(f"lines_per_language={lines_per_language} must be at least 1")
    sample: TextSample = {}
    draws: dict[str, _Reservoir] = {}
    for language, text in pairs:
        if not text.strip():
            continue
        if language not in sample:
            sample[language] = LanguageText()
            draws[language] = _Reservoir(
                lines_per_language, np.random.default_rng([seed, *language.encode()])
            )
        collected = sample[language]
        place = draws[language].place(collected.total_lines)
        collected.total_lines += 1
        collected.words += len(text.split())
        collected.characters.update(text)
        if place == len(collected.lines):
            collected.lines.append(text)
        elif place is not None:
            collected.lines[place] = text
    for language, collected in sample.items():
        collected.lines = draws[language].in_order(collected.lines)
    return sample


def alphabet(sample: TextSample, min_count: int) -> set[str]:
    """The characters that occur at least `min_count` times in some language, without the space."""
    return {
        char
        for text in sample.values()
        for char, count in text.characters.items()
        if count >= min_count and char != " "
    }


class _Reservoir:
    """A uniform sample from a stream of unknown length: algorithm L (Li, "Reservoir-sampling algorithms of
    time complexity O(n(1 + log(N/n)))", ACM TOMS 20(4), 1994), which draws how many lines to skip."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._arrival: list[int] = []
        self._log_weight = 0.0
        self._next = size - 1  # the first `size` lines are always kept
        self._skip()

    def _skip(self) -> None:
        self._log_weight += math.log(1.0 - self._rng.random()) / self._size
        weight = min(math.exp(self._log_weight), 1.0 - 1e-12)  # probability that the next line is kept
        self._next += math.floor(math.log(1.0 - self._rng.random()) / math.log1p(-weight)) + 1

    def place(self, index: int) -> int | None:
        """The place of line `index` in the sample (lines come in order); None if it is not kept."""
        if index < self._size:
            self._arrival.append(index)
            return index
        if index < self._next:
            return None
        self._skip()
        place = int(self._rng.integers(self._size))
        self._arrival[place] = index
        return place

    def in_order(self, lines: list[str]) -> list[str]:
        """The sample's lines in their original order."""
        return [lines[i] for i in np.argsort(self._arrival, kind="stable").tolist()]
