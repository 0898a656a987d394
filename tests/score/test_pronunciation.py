"""PER beside jiwer, articulatory errors beside panphon, correlations beside numpy, fused systems."""

import random
import sys

import numpy as np
import pytest

from maya.errors import MayaError
from maya.score.pronunciation import articulatory_errors, correlation, late_fusion, phoneme_errors
from maya.text.ipa import arpabet_units

PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T"
UNITS = arpabet_units(PHONES.split())


def pairs(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """A reference, and the same with some units changed, left out and put in; some are unrelated."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        ref = rng.choices(UNITS, k=rng.randint(1, 30))
        hyp: list[str] = []
        for unit in ref:
            kind = rng.random()
            hyp += [] if kind < 0.1 else [rng.choice(UNITS)] if kind < 0.2 else [unit]
            hyp += [rng.choice(UNITS)] if rng.random() < 0.1 else []
        rows.append((ref, rng.choices(UNITS, k=rng.randint(0, 30)) if rng.random() < 0.1 else hyp))
    return rows


def test_per_agrees_with_an_independent_scorer_on_10_000_pairs() -> None:
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed")
    rows = pairs(10_000, 1)
    refs, hyps = [ref for ref, _ in rows], [hyp for _, hyp in rows]
    own = phoneme_errors(refs, hyps)
    other = jiwer.process_words([" ".join(ref) for ref in refs], [" ".join(hyp) for hyp in hyps])
    assert own.errors == other.substitutions + other.deletions + other.insertions
    assert own.rate == pytest.approx(other.wer, abs=1e-12)
    assert own.ref_length == sum(map(len, refs))


def test_articulatory_errors_are_panphons() -> None:
    distance = pytest.importorskip("panphon.distance", reason="panphon is not installed").Distance()
    rows = pairs(40, 2)
    refs, hyps = [ref for ref, _ in rows], [hyp for _, hyp in rows]
    own = articulatory_errors(refs, hyps)
    texts = (
        ["".join(hyp).replace("ɝ", "ɜ˞") for hyp in hyps],
        ["".join(ref).replace("ɝ", "ɜ˞") for ref in refs],
    )
    assert own.rate == pytest.approx(distance.feature_error_rate(*texts))
    assert own.unknown == 0 and own.interval.low < own.rate < own.interval.high
    near, far = (articulatory_errors([["p", "a"]], [[unit, "a"]]).rate for unit in ("b", "n"))
    assert 0 < near < far < 0.5  # b differs from p in voice alone
    assert articulatory_errors([["p", "a"]], [["p", "☃"]]).unknown == 1
    assert articulatory_errors([["ɚ", "ᵻ"]], [["ə", "ɪ"]]).unknown == 0  # which panphon alone leaves out


def test_without_panphon_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "panphon.distance", None)
    with pytest.raises(MayaError, match=r"pip install 'maya-asr\[phonemes\]'"):
        articulatory_errors([["p"]], [["b"]])


def test_correlations() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    y = np.round(x + rng.normal(size=300))  # with ties
    own = correlation(x.tolist(), y.tolist(), blocks=[i // 5 for i in range(300)])
    assert own.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [np.array([(np.sum(v < e) + np.sum(v <= e) + 1) / 2 for e in v]) for v in (x, y)]
    assert own.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert own.pearson_interval.low < own.pearson < own.pearson_interval.high
    assert correlation([1, 2, 3], [1, 10, 1000]).spearman == pytest.approx(1.0)
    assert np.isnan(correlation([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]).pearson)


def test_late_fusion_is_the_mean_of_probabilities() -> None:
    a, b = np.log([[0.7, 0.3], [0.2, 0.8]]), np.log([[0.1, 0.9]])
    assert np.allclose(np.exp(late_fusion([a, b])), [[0.4, 0.6], [0.15, 0.85]])
    assert np.allclose(late_fusion([a, b], [1.0, 0.0]), a)
    assert np.allclose(np.exp(late_fusion([a, b], [3.0, 1.0]))[0], [0.55, 0.45])
    for bad in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(MayaError, match="a weight of at least 0"):
            late_fusion([a, b], bad)
    with pytest.raises(MayaError, match="the same units"):
        late_fusion([a, np.zeros((1, 3))])
