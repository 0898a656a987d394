"""Goodness of pronunciation against the formula on a path that is known."""

import numpy as np
import pytest

from maya.align.goodness import goodness
from maya.errors import MayaError

BLANK = 3


def frames(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.log(np.array(rows))


def test_it_is_the_formula_over_the_aligned_frames() -> None:
    scores = frames(
        (0.1, 0.1, 0.1, 0.7), (0.6, 0.2, 0.1, 0.1), (0.5, 0.2, 0.1, 0.2), (0.1, 0.1, 0.1, 0.7),
        (0.1, 0.3, 0.5, 0.1), (0.1, 0.1, 0.1, 0.7),
    )  # fmt: skip
    own = goodness(scores, np.array([0, 1]), BLANK)
    assert own.start.tolist() == [1, 4] and own.end.tolist() == [3, 5]
    expected = [(np.log(0.6 / 0.9) + np.log(0.5 / 0.8)) / 2, np.log(0.3 / 0.9)]
    assert np.allclose(own.lpp, expected)
    assert np.allclose(own.gop, [0.0, np.log(0.3 / 0.5)])  # the second sounds like unit 2
    assert own.lpr[1].argmax() == 2 and np.allclose(own.lpr[[0, 1], [0, 1]], 0)


def test_the_probability_of_blank_changes_nothing() -> None:
    scores = np.array([[0.6, 0.2, 0.2], [0.2, 0.3, 0.5]])
    values = []
    for blank in (0.1, 0.3):
        own = np.concatenate([scores * (1 - blank), np.full((2, 1), blank)], 1)
        values.append(goodness(np.log(own), np.array([0, 1]), BLANK).gop)
    assert np.allclose(values[0], values[1]) and np.allclose(values[0], [0.0, np.log(0.6)])


def test_too_many_phonemes_and_none_are_refused() -> None:
    with pytest.raises(MayaError, match="have no path|need at least"):
        goodness(frames((0.4, 0.2, 0.2, 0.2)), np.array([0, 1]), BLANK)
    with pytest.raises(MayaError, match="the text has none"):
        goodness(frames((0.4, 0.2, 0.2, 0.2)), np.array([], np.int64), BLANK)
