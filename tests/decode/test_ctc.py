"""Greedy CTC decoding, and the times and scores of its hypotheses."""

import random

import pytest
import torch

from maya.decode.confidence import ConfidenceConfig
from maya.decode.ctc import greedy as ctc
from maya.decode.ctc.greedy import CTCDecoder, collapse_ctc, greedy_ctc
from maya.decode.hypothesis import Hypothesis


def test_collapse_merges_runs_and_ignores_padding() -> None:
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


def test_run_ends_at_the_row_length() -> None:
    log_probs = torch.zeros(1, 6, 3)
    log_probs[..., 1] = 1.0
    (hyp,) = greedy_ctc(log_probs, torch.tensor([4]), blank=2)
    assert (hyp.tokens, hyp.durations) == ([1], [4])


def test_no_frames_gives_an_empty_hypothesis() -> None:
    (hyp,) = greedy_ctc(torch.zeros(1, 3, 3), torch.tensor([0]), blank=2)
    assert hyp.tokens == []


def test_hypothesis_times_and_scores() -> None:
    hyp = Hypothesis(tokens=[4, 2], frames=[3, 10], durations=[2, 0], scores=[-0.5, -1.0], frame_seconds=0.08)
    assert hyp.score == pytest.approx(-1.5)
    assert [t for pair in hyp.times for t in pair] == pytest.approx([0.24, 0.40, 0.80, 0.80])


def test_head_runs_in_chunks(monkeypatch):
    """Long audio is decoded in chunks, to save memory. Runs continue over chunk boundaries."""
    monkeypatch.setattr(ctc, "HEAD_FRAMES", 6)
    enc, lens = torch.randn(2, 23, 4), torch.tensor([23, 17])
    enc[:, 2:5] = enc[:, 2:3]  # a run over the seam at frame 3
    seen = []

    def head(part):
        seen.append(part[..., 0].numel())
        return part.log_softmax(-1)

    decoder = CTCDecoder(head, 2, blank=3)
    decoder.push(enc, lens)
    assert max(seen) == 6 and sum(seen) == int(lens.sum())  # padding is left out
    assert decoder.hyps == greedy_ctc(enc.log_softmax(-1), lens, blank=3)


def test_whole_and_streamed_output_equal_the_definition() -> None:
    """Runs are merged and blanks dropped. A token has the start, length and best score of its run."""
    draw = random.Random(3)
    path = [label for _ in range(60) for label in [draw.randrange(4)] * draw.randrange(1, 5)]
    scores = [-draw.random() for _ in path]
    expected = Hypothesis()
    for frame, (label, score) in enumerate(zip(path, scores, strict=True)):
        if label != 3 and frame and path[frame - 1] == label:
            expected.durations[-1] += 1
            expected.scores[-1] = max(expected.scores[-1], score)
        elif label != 3:
            for name, value in (("tokens", label), ("frames", frame), ("durations", 1), ("scores", score)):
                getattr(expected, name).append(value)
    assert collapse_ctc(path, scores, blank=3) == expected
    log_probs = torch.full((1, len(path), 4), -2.0, dtype=torch.float64)
    log_probs[0, range(len(path)), path] = torch.tensor(scores, dtype=torch.float64)
    for longest in (1, 2, 7, len(path)):
        none = ConfidenceConfig(measure="none")
        decoder, begin = CTCDecoder(lambda x: x, 1, blank=3, confidence=none), 0
        while begin < len(path):
            piece = log_probs[:, begin : begin + draw.randint(1, longest)]
            decoder.push(piece, torch.tensor([piece.shape[1]]))
            begin += piece.shape[1]
        assert decoder.hyps == [expected]
