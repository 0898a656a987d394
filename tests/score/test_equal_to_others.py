"""WER, CER and grapheme clusters equal jiwer, meeteval and graphemeu on 10 000 random pairs.

The packages are no dependencies of the tests: a test is skipped where its package is missing.
"""

import random
import unicodedata
from typing import Any

import numpy as np
import pytest

from maya.score.measures.graphemes import grapheme_errors, graphemes_of
from maya.score.wer import cer, wer

PAIRS = 10_000
# Words with combining marks: nukta, viramas, decomposed accents, stacked marks, conjuncts, an emoji.
WORDS = (
    *("a", "b", "the", "re\u0301sume\u0301", "r\u00e9sum\u00e9", "a\u0301\u0323", "\u1ea1\u0301", "n\u0303"),
    *(
        "\u0915\u093c\u0932\u092e",
        "\u0958\u0932\u092e",
        "\u0915\u094d\u0937\u0924\u094d\u0930",
        "\u0939\u0902",
    ),
    *(
        "\u0ba8\u0bbf",
        "\u0d28\u0d4d\u200d",
        "\u0d7b",
        "\u09a1\u09bc",
        "\u0c15\u0c4d\u0c37",
        "\u1112\u1161\u11ab",
    ),
    *("\ud55c", "\U0001f469\u200d\U0001f4bb", "12", "\u0967\u0968"),
)


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    """Random references, a tenth of them empty, and hypotheses made from them by edits."""
    rng = random.Random(18)
    refs, hyps = [], []
    for _ in range(PAIRS):
        ref = [rng.choice(WORDS) for _ in range(rng.choice((0, 1, 2, 3, 5, 8, 8, 13, 13, 21)))]
        rate = rng.choice((0.0, 0.1, 0.3, 0.8))
        hyp = []
        for word in ref:
            draw = rng.random()
            hyp += [] if draw < rate / 3 else [rng.choice(WORDS)] if draw < rate else [word]
            hyp += [rng.choice(WORDS)] * (rng.random() < rate / 3)
        if not ref:
            hyp = [rng.choice(WORDS) for _ in range(rng.choice((0, 0, 1, 3)))]
        refs.append(" ".join(ref))
        hyps.append(" ".join(hyp))
    return refs, hyps


def _composed(texts: list[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text) for text in texts]


def _check(ours: Any, expected: list[tuple[int, int]]) -> None:
    """Errors and reference lengths of each utterance."""
    assert np.array_equal(ours.utterance_errors, [errors for errors, _ in expected])
    assert np.array_equal(ours.utterance_ref_lengths, [length for _, length in expected])
    assert (ours.utterance_ref_lengths == 0).sum() > PAIRS / 20  # empty references are among them


def test_equal_to_jiwer(pairs: tuple[list[str], list[str]]) -> None:
    jiwer = pytest.importorskip("jiwer")
    refs, hyps = map(_composed, pairs)
    for ours, measure in ((wer, jiwer.process_words), (cer, jiwer.process_characters)):
        expected = []
        for ref, hyp in zip(refs, hyps, strict=True):
            out = measure(ref, hyp)
            errors = out.substitutions + out.deletions + out.insertions
            expected.append((errors, out.hits + out.substitutions + out.deletions))
        _check(ours(*pairs), expected)
        whole = measure(refs, hyps)
        rate = whole.wer if measure is jiwer.process_words else whole.cer
        assert ours(*pairs).rate == pytest.approx(rate, abs=1e-12)


def test_equal_to_meeteval(pairs: tuple[list[str], list[str]]) -> None:
    meeteval = pytest.importorskip("meeteval")
    refs, hyps = map(_composed, pairs)
    expected = [meeteval.wer.siso_word_error_rate(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]
    ours = wer(*pairs)
    _check(ours, [(e.errors, e.length) for e in expected])
    assert ours.rate == pytest.approx(meeteval.wer.combine_error_rates(*expected).error_rate, abs=1e-12)


def test_clusters_equal_to_graphemeu(pairs: tuple[list[str], list[str]]) -> None:
    grapheme = pytest.importorskip("grapheme")
    refs, hyps = pairs
    for text in {*refs, *hyps}:
        assert graphemes_of(text) == list(grapheme.graphemes(unicodedata.normalize("NFC", text)))
    assert grapheme_errors(refs, hyps).ref_length < cer(refs, hyps).ref_length


def test_form_does_not_matter(pairs: tuple[list[str], list[str]]) -> None:
    """Composed and decomposed text score the same."""
    refs, hyps = pairs
    decomposed = [unicodedata.normalize("NFD", hyp) for hyp in hyps]
    for measure in (wer, cer, grapheme_errors):
        assert np.array_equal(measure(refs, hyps).counts, measure(refs, decomposed).counts)


def test_clusters_of_conjuncts() -> None:
    """Rule GB9c keeps a conjunct whole; without a virama between them consonants are apart."""
    assert graphemes_of("\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f") == [
        "\u0915\u094d\u0937", "\u0924\u094d\u0930\u093f", "\u092f",
    ]  # fmt: skip
    assert graphemes_of("  a\u0301  b ") == ["\u00e1", " ", "b"]
    assert grapheme_errors([""], ["\u0928\u0940"]).insertions == 1
