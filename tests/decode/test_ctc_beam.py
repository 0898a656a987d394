"""CTC beam search: the most probable text by brute force, with and without a language model."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from maya.decode.ctc import greedy_ctc
from maya.decode.ctc_beam import BeamConfig, beam_ctc
from maya.decode.lm.kneser_ney import NGram

BLANK = 3
WIDE = BeamConfig(beam=1000, token_beam=1000.0, lm_weight=0.0, token_bonus=0.0)


def every_text(longest: int) -> list[tuple[int, ...]]:
    return [text for n in range(longest + 1) for text in product(range(BLANK), repeat=n)]


def log_prob(log_probs: torch.Tensor, text: tuple[int, ...]) -> float:
    """Log probability summed over all alignments, by torch's CTC loss. -inf if there is no alignment."""
    target = torch.tensor(text, dtype=torch.long)
    loss = F.ctc_loss(
        log_probs, target, torch.tensor(len(log_probs)), torch.tensor(len(text)), blank=BLANK, reduction="sum"
    )
    return -loss.item()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
def test_wide_beam_equals_exhaustive_search(seed: int, lm_weight: float) -> None:
    torch.manual_seed(seed)
    log_probs = (torch.randn(1, 5, 4) * 2).log_softmax(-1)
    lm = NGram([[0, 1, 2], [0, 0], [1, 2, 1]], 3, order=3)
    cfg = BeamConfig(beam=1000, token_beam=1000.0, lm_weight=lm_weight, token_bonus=0.3)
    (hyp,) = beam_ctc(log_probs, torch.tensor([5]), blank=BLANK, cfg=cfg, lms=[lm])
    totals = {
        text: log_prob(log_probs[0], text) + lm_weight * lm.score(text) + 0.3 * len(text)
        for text in every_text(5)
    }
    assert tuple(hyp.tokens) == max(totals, key=totals.__getitem__)


def test_sum_over_paths_beats_the_best_path() -> None:
    # Blank is the best single path of two frames (0.36), but "0" has three: 0.24 + 0.24 + 0.16.
    log_probs = torch.tensor([[[0.4, 1e-9, 1e-9, 0.6]] * 2]).log()
    lens = torch.tensor([2])
    assert greedy_ctc(log_probs, lens, blank=BLANK)[0].tokens == []
    assert beam_ctc(log_probs, lens, blank=BLANK, cfg=WIDE)[0].tokens == [0]


def test_confident_outputs_equal_greedy() -> None:
    torch.manual_seed(0)
    log_probs = (torch.randn(3, 30, 12) * 20).log_softmax(-1)
    lens = torch.tensor([30, 17, 0])
    cfg = BeamConfig(lm_weight=0.0, token_bonus=0.0)
    for hyp, greedy in zip(
        beam_ctc(log_probs, lens, blank=5, cfg=cfg), greedy_ctc(log_probs, lens, blank=5), strict=True
    ):
        assert hyp.tokens == greedy.tokens
        assert hyp.frames == greedy.frames
        assert hyp.durations == greedy.durations
        assert hyp.scores == pytest.approx(greedy.scores, abs=1e-4)


def test_language_model_decides_between_close_scores() -> None:
    log_probs = torch.full((1, 4, 4), -9.0)
    log_probs[0, 0, 0] = log_probs[0, 1, BLANK] = log_probs[0, 3, BLANK] = 0.0
    log_probs[0, 2, 1], log_probs[0, 2, 2] = -0.6, -0.8
    log_probs = log_probs.log_softmax(-1)
    lm = NGram([[0, 2]] * 3, 3, order=2)
    cfg = BeamConfig(lm_weight=1.0, token_bonus=0.0)
    lens = torch.tensor([4])
    assert beam_ctc(log_probs, lens, blank=BLANK, cfg=cfg)[0].tokens == [0, 1]
    assert beam_ctc(log_probs, lens, blank=BLANK, cfg=cfg, lms=[lm])[0].tokens == [0, 2]
    assert beam_ctc(log_probs, lens, blank=BLANK, cfg=cfg, lms=[None])[0].tokens == [0, 1]


def test_bonus_counts_for_rows_with_a_language_model() -> None:
    """A row whose language has no texts has no bonus either; without any language model it is an option."""
    torch.manual_seed(0)
    log_probs = torch.randn(1, 12, 4).log_softmax(-1).repeat(2, 1, 1)
    lens, lm = torch.tensor([12, 12]), NGram([[0, 1, 2]], 3, order=2)

    def texts(lms: list[NGram | None], **options: Any) -> list[list[int]]:
        cfg = BeamConfig(beam=64, lm_weight=0.0, **options)
        return [h.tokens for h in beam_ctc(log_probs, lens, blank=BLANK, cfg=cfg, lms=lms)]

    plain = texts([None, None], lm_order=0, token_bonus=0.0)
    long = texts([None, None], lm_order=0, token_bonus=4.0)
    assert len(long[0]) > len(plain[0])
    assert texts([lm, None], lm_order=2, token_bonus=4.0) == [long[0], plain[1]]
