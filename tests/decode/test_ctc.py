"""Greedy CTC decoding and what a hypothesis says about time."""

import pytest
import torch

from maya.decode import ctc
from maya.decode.ctc import CTCDecoder, greedy_ctc
from maya.decode.hypothesis import Hypothesis


def test_runs_merge_blanks_part_them_and_padding_is_ignored() -> None:
    best = torch.tensor([[0, 0, 3, 0, 2, 2, 2, 1], [3, 3, 3, 3, 1, 1, 1, 1], [2, 1, 1, 3, 0, 0, 0, 0]])
    strength = torch.rand(3, 8)
    log_probs = torch.full((3, 8, 4), -9.0).scatter(2, best[..., None], -strength[..., None])
    first, silent, short = greedy_ctc(log_probs, torch.tensor([8, 4, 4]), blank=3)
    assert first.tokens == [0, 0, 2, 1]
    assert first.frames == [0, 3, 4, 7]
    assert first.durations == [2, 1, 3, 1]
    runs = [strength[0, a:b].min().item() for a, b in ((0, 2), (3, 4), (4, 7), (7, 8))]
    assert first.scores == pytest.approx([-x for x in runs])
    assert silent.tokens == silent.frames == silent.durations == silent.scores == []
    assert (short.tokens, short.durations) == ([2, 1], [1, 2])


def test_a_run_is_cut_at_the_end_of_its_row() -> None:
    log_probs = torch.zeros(1, 6, 3)
    log_probs[..., 1] = 1.0
    (hyp,) = greedy_ctc(log_probs, torch.tensor([4]), blank=2)
    assert (hyp.tokens, hyp.durations) == ([1], [4])


def test_no_frames_gives_an_empty_hypothesis() -> None:
    (hyp,) = greedy_ctc(torch.zeros(1, 3, 3), torch.tensor([0]), blank=2)
    assert hyp.tokens == []


def test_times_and_score_of_a_hypothesis() -> None:
    hyp = Hypothesis(tokens=[4, 2], frames=[3, 10], durations=[2, 0], scores=[-0.5, -1.0], frame_seconds=0.08)
    assert hyp.score == pytest.approx(-1.5)
    assert [t for pair in hyp.times for t in pair] == pytest.approx([0.24, 0.40, 0.80, 0.80])


def test_a_head_is_run_in_stretches(monkeypatch):
    """The log-probabilities of hours are never there at once; runs go on over the seams."""
    monkeypatch.setattr(ctc, "HEAD_FRAMES", 6)
    enc, lens = torch.randn(2, 23, 4), torch.tensor([23, 17])
    enc[:, 2:5] = enc[:, 2:3]  # a run over the seam at frame 3
    seen = []

    def head(part):
        seen.append(part.shape[1])
        return part.log_softmax(-1)

    decoder = CTCDecoder(head, 2, blank=3)
    decoder.push(enc, lens)
    assert max(seen) == 3 and sum(seen) == 23
    assert decoder.hyps == greedy_ctc(enc.log_softmax(-1), lens, blank=3)
