"""The n-gram model: distributions, Kneser-Ney smoothing by hand, and backoff."""

import math

import numpy as np
import pytest

from maya.decode.lm.kneser_ney import NGram

TEXTS = [[0, 1, 2], [0, 1, 3], [2, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_every_state_sums_to_one(order: int) -> None:
    lm = NGram(TEXTS, 5, order=order)
    states = {lm.start()}
    for _ in range(4):
        states |= {lm.advance(state, token) for state in states for token in range(5)}
    for state in states:
        assert len(state) < order
        assert np.exp(lm.log_probs(state).astype(float)).sum() == pytest.approx(1, abs=1e-6)


def test_bigram_equals_hand_computation() -> None:
    lm = NGram(TEXTS, 4, order=2)
    # Unigrams count the different tokens before each: 0 and 2 after the beginning, 2 after 1, 1 after 0 and
    # 2, 3 after 1, the end after 2 and 3. One of each occurs once (0, 3), three twice (1, 2, the end).
    base = 2 / (2 + 2 * 3)
    uniform = base * 5 / 8 / 5
    unigram = {t: (c - base) / 8 + uniform for t, c in {0: 1, 1: 2, 2: 2, 3: 1, 4: 2}.items()}
    # Bigrams that occur once: beginning 2, 2 1, 1 3, 3 end; none occurs twice, so the discount is 0.75.
    after_one = {2: 3, 3: 1}
    for token in range(5):
        share = max(after_one.get(token, 0) - 0.75, 0) / 4
        expected = share + 0.75 * 2 / 4 * unigram[token]
        assert math.exp(lm.log_probs((1,))[token]) == pytest.approx(expected, rel=1e-5)


def test_unseen_context_backs_off() -> None:
    lm = NGram(TEXTS, 5, order=4)
    assert lm.advance((0, 1), 3) == (0, 1, 3)[-3:]
    assert lm.advance((0, 1), 4) == ()
    assert lm.advance((3, 3), 2) == (2,)


def test_corpus_text_is_likelier_than_other_text() -> None:
    lm = NGram(TEXTS, 5, order=3)
    assert lm.score([0, 1, 2]) > lm.score([0, 2, 1]) > lm.score([4, 4, 4])
    assert lm.score([]) == pytest.approx(float(lm.log_probs(lm.start())[5]))


def test_higher_order_fits_the_corpus_better() -> None:
    per_order = [sum(NGram(TEXTS, 5, order=n).score(t) for t in TEXTS) for n in (1, 2, 3)]
    assert per_order == sorted(per_order)


def test_no_texts_give_a_uniform_model_and_bad_order_is_refused() -> None:
    lm = NGram([], 3, order=2)
    assert lm.start() == ()
    assert np.exp(lm.log_probs(())).tolist() == pytest.approx([0.25] * 4)
    with pytest.raises(ValueError, match="order"):
        NGram([], 3, order=0)
