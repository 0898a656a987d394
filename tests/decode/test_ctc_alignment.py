"""Forced alignment against exhaustive search of small problems, and against torchaudio if it loads."""

import itertools
import time

import pytest
import torch
from torch import Tensor

from maya.decode.ctc.alignment import align_ctc
from maya.errors import MayaError
from tests import oracles


def collapse(path: tuple[int, ...] | list[int], blank: int) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != blank]


def brute_force(log_probs: Tensor, tokens: list[int], blank: int) -> float:
    """The score of the best of all V ** S paths that spell the tokens."""
    frames, vocab = log_probs.shape
    paths = itertools.product(range(vocab), repeat=frames)
    scores = [
        sum(float(log_probs[t, token]) for t, token in enumerate(path))
        for path in paths
        if collapse(path, blank) == tokens
    ]
    return max(scores)


def random_problem(frames: int, vocab: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(frames, vocab, dtype=dtype)).log_softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_alignment_is_the_best_path(frames: int, blank: int, dtype: torch.dtype) -> None:
    labels = [token for token in range(3) if token != blank]
    checked = 0
    for length in range(4):
        for tokens in itertools.product(labels, repeat=length):
            needed = length + sum(a == b for a, b in itertools.pairwise(tokens))
            if needed > frames:
                continue
            log_probs = random_problem(frames, 3, dtype)
            path, scores = align_ctc(log_probs, torch.tensor(tokens, dtype=torch.long), blank=blank)
            assert collapse(path.tolist(), blank) == list(tokens)
            assert torch.equal(scores, log_probs.gather(1, path[:, None])[:, 0]) and scores.dtype == dtype
            assert float(scores.sum()) == pytest.approx(brute_force(log_probs, list(tokens), blank), abs=1e-5)
            checked += 1
    assert checked >= 3


def test_ties_take_the_last_transition() -> None:
    even = torch.full((7, 4), -1.0)
    for tokens in ([], [1], [1, 1], [1, 2, 3], [2, 2, 2], [3, 1, 3]):
        path, scores = align_ctc(even, torch.tensor(tokens, dtype=torch.long), blank=0)
        assert collapse(path.tolist(), 0) == tokens and float(scores.sum()) == -7
    assert align_ctc(even, torch.tensor([1, 2]), blank=0)[0].tolist() == [1, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("frames", "count", "vocab"), [(60, 20, 5), (200, 80, 50), (37, 37, 400), (50, 1, 3)]
)
def test_scores_equal_torchaudios(frames: int, count: int, vocab: int, dtype: torch.dtype) -> None:
    forced_align = oracles.torchaudio().forced_align
    log_probs = random_problem(frames, vocab, dtype)
    tokens = torch.randint(1, vocab, (count,))
    if frames == count:  # too few frames for the blank between equal neighbours
        tokens = torch.arange(1, count + 1)
    path, scores = align_ctc(log_probs, tokens, blank=0)
    expected_path, expected = forced_align(log_probs[None], tokens[None], blank=0)
    assert collapse(path.tolist(), 0) == tokens.tolist()
    torch.testing.assert_close(scores.sum(), expected.sum().to(dtype), rtol=1e-6, atol=1e-4)
    assert torch.equal(path, expected_path[0])  # random scores have no ties


def test_too_few_frames_are_refused() -> None:
    for frames, tokens in ((2, [1, 2, 3]), (3, [1, 1, 2]), (4, [2, 2, 2]), (0, [1])):
        needed = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
        with pytest.raises(MayaError, match=f"{len(tokens)} tokens need {needed} frames.* has {frames}"):
            align_ctc(random_problem(frames, 4), torch.tensor(tokens), blank=0)
        align_ctc(random_problem(needed, 4), torch.tensor(tokens), blank=0)


def test_empty_tokens() -> None:
    none = torch.zeros(0, dtype=torch.long)
    path, scores = align_ctc(random_problem(3, 4), none, blank=2)
    assert path.tolist() == [2, 2, 2] and scores.shape == (3,)
    path, scores = align_ctc(random_problem(0, 4), none, blank=2)
    assert path.shape == scores.shape == (0,)


def test_impossible_alignments_are_refused() -> None:
    log_probs = random_problem(6, 4)
    with pytest.raises(MayaError, match="hold the blank 0"):
        align_ctc(log_probs, torch.tensor([1, 0]), blank=0)
    impossible = log_probs.clone()
    impossible[:, 3] = -torch.inf
    with pytest.raises(MayaError, match="no path"):
        align_ctc(impossible, torch.tensor([1, 3]), blank=0)
    impossible[0] = torch.nan
    with pytest.raises(MayaError, match="no path"):
        align_ctc(impossible, torch.tensor([1]), blank=0)
    impossible = log_probs.clone()
    impossible[:, 0] = -torch.inf  # never blank: the tokens alone must fill the frames
    assert align_ctc(impossible, torch.tensor([1, 2]), blank=0)[0].min() > 0


def test_two_minutes_align_in_under_two_seconds() -> None:
    log_probs = random_problem(3000, 128, torch.float32)
    began = time.process_time()
    align_ctc(log_probs, torch.randint(1, 128, (200,)), blank=0)
    assert time.process_time() - began < 2  # 0.1 s on a quiet core
