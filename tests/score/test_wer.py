import math
import random

import numpy as np
import pytest

from maya.errors import MayaError
from maya.score.wer import (
    ErrorStats,
    align,
    bootstrap_rates,
    cer,
    compare,
    interval,
    macro_average,
    macro_compare,
    pool,
    wer,
    words_of,
)


def stats(errors: list[int], lengths: list[int]) -> ErrorStats:
    """Statistics with these errors, all substitutions, and these reference lengths."""
    zeros = [0] * len(errors)
    return ErrorStats(counts=np.array([errors, zeros, zeros, lengths], np.int64).T)


def levenshtein(ref: list[str], hyp: list[str]) -> int:
    """Edit distance by the textbook recursion, as a second opinion."""
    row = list(range(len(hyp) + 1))
    for i, r in enumerate(ref, 1):
        diagonal, row[0] = row[0], i
        for j, h in enumerate(hyp, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (r != h))
    return row[-1]


def test_counts_each_kind_of_error() -> None:
    errors = wer(["the cat sat", "on the mat", "yes"], ["the bat sat", "on mat", "yes it is"])
    assert (errors.substitutions, errors.deletions, errors.insertions) == (1, 1, 2)
    assert errors.ref_length == 7
    assert errors.rate == pytest.approx(4 / 7)
    assert errors.utterance_errors.tolist() == [1, 1, 2]
    assert errors[1:].errors == 3


def test_agrees_with_the_textbook_edit_distance() -> None:
    rng = random.Random(3)
    sentences = [" ".join(rng.choices("abcd", k=rng.randrange(9))) for _ in range(400)]
    refs, hyps = sentences[:200], sentences[200:]
    errors = wer(refs, hyps)
    expected = [levenshtein(r.split(), h.split()) for r, h in zip(refs, hyps, strict=True)]
    assert errors.utterance_errors.tolist() == expected


def test_alignment_has_the_errors_of_the_count() -> None:
    rng = random.Random(4)
    for _ in range(100):
        ref, hyp = rng.choices("abc", k=rng.randrange(1, 9)), rng.choices("abc", k=rng.randrange(1, 9))
        pairs = align(ref, hyp)
        counted = wer([" ".join(ref)], [" ".join(hyp)])
        assert sum(bool(r and h and r != h) for r, h in pairs) == counted.substitutions
        assert sum(not h for _, h in pairs) == counted.deletions
        assert sum(not r for r, _ in pairs) == counted.insertions
        assert [r for r, _ in pairs if r] == ref
        assert [h for _, h in pairs if h] == hyp


def test_characters_are_code_points_with_spaces() -> None:
    assert cer(["ab cd"], ["abcd"]).counts.tolist() == [[0, 1, 0, 5]]
    # A virama and a vowel sign count one each: नमस्ते has six code points, four of them letters.
    assert cer(["नमस्ते"], ["नमसते"]).counts.tolist() == [[0, 1, 0, 6]]


def test_composition_and_white_space_are_ignored() -> None:
    # The same word with e-acute as one code point and as two, and with a doubled space.
    assert wer(["caf\u00e9  noir"], ["cafe\u0301 noir "]).errors == 0
    assert cer(["caf\u00e9  noir"], ["cafe\u0301 noir "]).errors == 0
    assert words_of("cafe\u0301") == ["caf\u00e9"]


def test_empty_references() -> None:
    assert wer([""], [""]).rate == 0.0
    assert wer([""], ["heard it"]).rate == math.inf
    assert wer(["", "a b"], ["x", "a b"]).rate == 0.5  # the insertion counts in the ratio of sums
    assert wer([], []).rate == 0.0


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(MayaError, match="2 references but 1 hypotheses"):
        wer(["a", "b"], ["a"])


def test_bootstrap_is_a_ratio_of_sums_and_reproducible() -> None:
    # Every utterance at 50 %: any draw has exactly that rate, whatever the lengths. A mean of ratios agrees,
    # so the second case has unequal rates: the long clean utterance must outweigh the short bad one.
    even = stats([1, 5, 50], [2, 10, 100])
    assert np.all(bootstrap_rates(even, replicates=50) == 0.5)
    uneven = stats([1, 0], [1, 99])
    possible = {0.0, 0.01, 1.0}
    rates = bootstrap_rates(uneven, replicates=400)
    assert {round(r, 6) for r in rates.tolist()} == possible
    assert np.array_equal(rates, bootstrap_rates(uneven, replicates=400))
    assert not np.array_equal(rates, bootstrap_rates(uneven, replicates=400, seed=1))


def test_interval_has_the_width_of_the_binomial() -> None:
    # 400 utterances of one word, a quarter wrong: the interval is close to p +- 1.96 sqrt(p (1 - p) / n).
    bounds = interval(stats([1] * 100 + [0] * 300, [1] * 400))
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert bounds.low == pytest.approx(0.25 - half, abs=0.008)
    assert bounds.high == pytest.approx(0.25 + half, abs=0.008)


def test_bootstrap_in_chunks_gives_the_same_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    some = stats(list(range(10)), [12] * 10)
    whole = bootstrap_rates(some, replicates=33)
    monkeypatch.setattr("maya.score.wer._INDICES_AT_ONCE", 40)
    assert np.array_equal(whole, bootstrap_rates(some, replicates=33))


def test_bootstrap_draws_whole_speakers() -> None:
    # Two speakers, one always wrong: only 0, 1/2 and 1 can be drawn, the widest interval there is.
    some = stats([1] * 50 + [0] * 50, [1] * 100)
    speakers = ["a"] * 50 + ["b"] * 50
    assert set(bootstrap_rates(some, blocks=speakers).tolist()) == {0.0, 0.5, 1.0}
    wide, narrow = interval(some, blocks=speakers), interval(some)
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(MayaError, match="speaker labels"):
        interval(some, blocks=["a"])


def test_a_single_utterance_has_no_interval() -> None:
    assert math.isnan(interval(stats([1], [2])).low)
    assert math.isnan(interval(stats([1, 1], [2, 2]), blocks=["a", "a"]).high)
    assert math.isnan(interval(stats([], [])).low)


def test_macro_average_counts_each_language_once() -> None:
    languages = {"hi": stats([0] * 90, [10] * 90), "ta": stats([5] * 10, [10] * 10), "xx": stats([1], [0])}
    mean, bounds = macro_average(languages)
    assert mean == 0.25  # pooled it would be 0.05; xx has no reference words and is left out
    assert bounds.low == bounds.high == 0.25
    assert pool([languages["hi"], languages["ta"]]).rate == 0.05
    assert math.isnan(macro_average({})[0])


def test_languages_are_drawn_independently() -> None:
    # Drawn with one seed, equal statistics would move together and the interval of their mean be as wide
    # as that of one; drawn apart it is narrower by sqrt(2).
    group = stats([1] * 50 + [0] * 50, [1] * 100)
    alone, (_, both) = interval(group), macro_average({"a": group, "b": group})
    assert (both.high - both.low) / (alone.high - alone.low) == pytest.approx(0.5**0.5, abs=0.1)


def test_compare() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 5, 300)
    first = stats(base.tolist(), [10] * 300)
    same = compare(first, first)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    # One error less in every third utterance: a small gain, but the same one in nearly every draw.
    better = stats(np.maximum(base - (np.arange(300) % 3 == 0), 0).tolist(), [10] * 300)
    gain = compare(first, better)
    assert gain.difference < 0 and gain.interval.high < 0 and gain.p_value < 0.01
    assert compare(better, first).difference == -gain.difference
    # Noise of mean zero is no difference.
    noisy = stats((base + rng.choice([-1, 1], 300)).tolist(), [10] * 300)
    assert compare(first, noisy).p_value > 0.05
    with pytest.raises(MayaError, match="different references"):
        compare(first, stats(base.tolist(), [11] * 300))


def test_macro_comparison_needs_two_utterances_to_draw_from() -> None:
    """A single utterance gives no interval: every draw is the same."""
    first, second = {"en": stats([0], [4])}, {"en": stats([1], [4])}
    comparison = macro_compare(first, second, blocks={"en": (["a"], ["a"])})
    assert comparison.difference == 0.25 and math.isnan(comparison.p_value)
    assert math.isnan(comparison.interval.low) and math.isnan(comparison.interval.high)
    several = {"en": stats([0, 1], [4, 4])}  # two runs
    assert math.isnan(macro_compare(several, second, blocks={"en": (["a", "a"], ["a"])}).p_value)


def test_macro_comparison_without_reference_words() -> None:
    empty = {"en": stats([0, 1], [0, 0])}
    comparison = macro_compare(empty, empty, blocks={"en": (["a", "b"], ["a", "b"])})
    assert math.isnan(comparison.difference) and math.isnan(comparison.p_value)
