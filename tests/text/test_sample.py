import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from maya.errors import MayaError
from maya.text.sample import alphabet, gather


def lines(language: str, count: int) -> Iterator[tuple[str, str]]:
    return ((language, f"line {i}") for i in range(count))


def test_a_small_text_is_kept_in_full_and_in_order() -> None:
    sample = gather([("hi", "ख क"), ("en", "a b a"), ("hi", " "), ("hi", "क")], lines_per_language=9, seed=0)
    assert list(sample) == ["hi", "en"]
    assert sample["hi"].lines == ["ख क", "क"]
    assert (sample["hi"].total_lines, sample["hi"].words, sample["hi"].length) == (2, 3, 4)
    assert sample["en"].characters == {"a": 2, "b": 1, " ": 2}


def test_a_large_text_is_sampled_but_counted_in_full() -> None:
    (sample,) = gather(lines("en", 20_000), lines_per_language=50, seed=0).values()
    assert len(sample.lines) == 50 == len(set(sample.lines))
    numbers = [int(line.split()[1]) for line in sample.lines]
    assert numbers == sorted(numbers)
    assert sample.total_lines == 20_000 and sample.words == 40_000 and sample.characters["l"] == 20_000


def test_every_line_has_the_same_probability() -> None:
    """2000 draws of 10 of 100 lines: each is kept about 200 times (chi-square, 99 degrees, p = 1e-6)."""
    kept = np.zeros(100)
    for seed in range(2000):
        (sample,) = gather(lines("en", 100), lines_per_language=10, seed=seed).values()
        kept[[int(line.split()[1]) for line in sample.lines]] += 1
    assert kept.sum() == 20_000
    assert ((kept - 200) ** 2 / 180).sum() < 180


def test_the_sample_of_a_language_does_not_depend_on_other_languages() -> None:
    alone = gather(lines("hi", 1000), lines_per_language=20, seed=3)["hi"].lines
    mixed = itertools.chain.from_iterable(zip(lines("en", 1000), lines("hi", 1000), strict=True))
    assert gather(mixed, lines_per_language=20, seed=3)["hi"].lines == alone
    assert gather(lines("hi", 1000), lines_per_language=20, seed=4)["hi"].lines != alone


def test_alphabet_counts_within_each_language() -> None:
    sample = gather([("en", "ab " * 3), ("hi", "कa")], lines_per_language=5, seed=0)
    assert alphabet(sample, 1) == {"a", "b", "क"}
    assert alphabet(sample, 3) == {"a", "b"}
    assert alphabet(sample, 4) == set(), "3 in one language and 1 in another are not 4"


def test_room_for_no_line_is_refused() -> None:
    with pytest.raises(MayaError, match="lines_per_language=0 must be at least 1"):
        gather([], lines_per_language=0, seed=0)
