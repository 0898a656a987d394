"""CTC beam search: the most probable text by brute force, with and without a language model."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from maya.decode.beams.ctc_paths import align_texts
from maya.decode.beams.fused_rows import FusionStart
from maya.decode.beams.texts_scorer import TextsScorer
from maya.decode.ctc.alignment import align_ctc
from maya.decode.ctc.beam import BeamConfig, beam_ctc, nbest_ctc
from maya.decode.ctc.greedy import collapse_ctc, greedy_ctc
from maya.decode.fusion import Fusion, Part
from maya.decode.hypothesis import Hypothesis
from maya.decode.lm.kneser_ney import NGram
from tools.bench.ctc_beam_python import reference_ctc

BLANK = 3
WIDE = BeamConfig(beam=1000, token_beam=1000.0, lm_weight=0.0, token_bonus=0.0)


def text_scores(lms: Sequence[NGram | None], cfg: BeamConfig, outputs: int) -> FusionStart:
    """What the search adds for rows with these language models."""
    names = [str(i) for i in range(len(lms))]
    ngrams = {name: lm for name, lm in zip(names, lms, strict=True) if lm is not None}
    scorer = TextsScorer(
        ngrams, names, outputs=outputs, blank=BLANK, weight=cfg.lm_weight, bonus=cfg.token_bonus,
        device=torch.device("cpu"),
    )  # fmt: skip
    fusion = Fusion([Part(weight=1.0, scorer=scorer)], blank=BLANK)
    return FusionStart(fusion, fusion.start(len(lms), torch.arange(len(lms))))


def decode(
    log_probs: torch.Tensor, lens: torch.Tensor, cfg: BeamConfig, lms: Sequence[NGram | None]
) -> list[Hypothesis]:
    start = text_scores(lms, cfg, log_probs.shape[-1])
    return beam_ctc(log_probs, lens, blank=BLANK, cfg=cfg, start=start)


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
    cfg = BeamConfig(beam=1000, n_best=1000, token_beam=1000.0, lm_weight=lm_weight, token_bonus=0.3)
    (hyp,) = decode(log_probs, torch.tensor([5]), cfg, [lm])
    totals = {
        text: log_prob(log_probs[0], text) + lm_weight * lm.score(text) + 0.3 * len(text)
        for text in every_text(5)
    }
    assert tuple(hyp.tokens) == max(totals, key=totals.__getitem__)
    beam = {tuple(h.tokens): h.search_score for h in (hyp, *hyp.alternatives)}
    possible = {text: total for text, total in totals.items() if total > -math.inf}
    assert beam == pytest.approx(possible, abs=1e-4)


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
    assert decode(log_probs, lens, cfg, [lm])[0].tokens == [0, 2]
    assert decode(log_probs, lens, cfg, [None])[0].tokens == [0, 1]


def test_bonus_counts_for_rows_with_a_language_model() -> None:
    """A row whose language has no texts has no bonus either; without any language model it is an option."""
    torch.manual_seed(0)
    log_probs = torch.randn(1, 12, 4).log_softmax(-1).repeat(2, 1, 1)
    lens, lm = torch.tensor([12, 12]), NGram([[0, 1, 2]], 3, order=2)

    def texts(lms: list[NGram | None], **options: Any) -> list[list[int]]:
        cfg = BeamConfig(beam=64, lm_weight=0.0, **options)
        return [h.tokens for h in decode(log_probs, lens, cfg, lms)]

    plain = texts([None, None], token_bonus=4.0)
    assert plain[0] == plain[1]
    long = texts([lm, None], token_bonus=4.0)
    assert len(long[0]) > len(plain[0]) and long[1] == plain[1]
    fusion = Fusion([], blank=BLANK, token_bonus=4.0)
    everywhere = FusionStart(fusion, fusion.start(2))
    hyps = beam_ctc(log_probs, lens, blank=BLANK, cfg=BeamConfig(beam=64), start=everywhere)
    assert [h.tokens for h in hyps] == [long[0], long[0]]


@pytest.mark.parametrize("order", [0, 3])
def test_thousand_random_lattices_equal_the_definition(order: int) -> None:
    """Tokens and scores of the whole beam, with and without a language model."""
    torch.manual_seed(0)
    rows, frames, vocab = 100, 12, 6
    lm = NGram([[0, 1, 2], [4, 4, 0], [1, 2, 1, 4]], vocab, order=3) if order else None
    for i in range(10):
        log_probs = ((1 + i % 3) * torch.randn(rows, frames, vocab)).log_softmax(-1)
        log_probs = log_probs.double()
        lens = torch.randint(frames + 1, (rows,))
        cfg = BeamConfig(
            beam=2 + i % 5, token_beam=(3.0, 8.0)[i % 2], lm_weight=0.7, token_bonus=0.2, n_best=8
        )
        expected = reference_ctc(log_probs, lens, BLANK, cfg, [lm] * rows)
        start = text_scores([lm] * rows, cfg, vocab) if order else None
        nbest = nbest_ctc(log_probs, lens, blank=BLANK, cfg=cfg, start=start)
        for row, truth in zip(nbest, expected, strict=True):
            assert [tokens for tokens, _ in row] == [tokens for tokens, _ in truth]
            assert [score for _, score in row] == pytest.approx([score for _, score in truth], abs=1e-5)


def test_row_alone_equals_row_in_batch_and_padding_is_ignored() -> None:
    log_probs = torch.randn(4, 20, 6).log_softmax(-1)
    lens, lm = torch.tensor([20, 7, 0, 12]), NGram([[0, 1, 2], [4, 4, 0]], 5, order=3)
    cfg = BeamConfig(beam=5, n_best=3)
    together = decode(log_probs, lens, cfg, [lm] * 4)
    for row, n in enumerate(lens.tolist()):
        (alone,) = decode(log_probs[row : row + 1, :n], lens[row : row + 1], cfg, [lm])
        assert [h.tokens for h in alone.alternatives] == [h.tokens for h in together[row].alternatives]
        assert (alone.tokens, alone.frames) == (together[row].tokens, together[row].frames)
        log_probs[row, n:] = float("nan")
    assert [h.tokens for h in decode(log_probs, lens, cfg, [lm] * 4)] == [h.tokens for h in together]
    assert beam_ctc(log_probs[:0], lens[:0], blank=BLANK, cfg=cfg) == []


def test_weight_zero_changes_nothing() -> None:
    log_probs, lens = torch.randn(3, 20, 6).log_softmax(-1), torch.tensor([20, 7, 12])
    lm = NGram([[0, 1, 2], [4, 4, 0]], 5, order=3)
    cfg = BeamConfig(beam=5, n_best=3, lm_weight=0.0, token_bonus=0.0)
    plain = beam_ctc(log_probs, lens, blank=BLANK, cfg=cfg)
    assert decode(log_probs, lens, cfg, [lm] * 3) == plain


def test_blank_penalty_temperature_and_length_norm() -> None:
    log_probs, lens = torch.randn(1, 30, 6).log_softmax(-1), torch.tensor([30])
    cfg = BeamConfig(beam=32, n_best=32)
    plain, penalised, flat, normed = (
        beam_ctc(log_probs, lens, blank=BLANK, cfg=BeamConfig(beam=32, n_best=32, **options))[0]
        for options in ({}, {"blank_penalty": 3.0}, {"temperature": 3.0}, {"length_norm": True})
    )
    assert len(penalised.tokens) > len(plain.tokens)
    changed = (log_probs - 3.0 * torch.nn.functional.one_hot(torch.tensor(BLANK), 6)).log_softmax(-1)
    assert penalised.tokens == beam_ctc(changed, lens, blank=BLANK, cfg=cfg)[0].tokens
    assert flat.tokens == beam_ctc((log_probs / 3).log_softmax(-1), lens, blank=BLANK, cfg=cfg)[0].tokens
    scores = {tuple(h.tokens): h.search_score for h in (plain, *plain.alternatives)}
    for hyp in (normed, *normed.alternatives):
        total = scores[tuple(hyp.tokens)]
        assert total is not None and hyp.search_score == pytest.approx(
            total / (len(hyp.tokens) + 1), abs=1e-4
        )


def test_placed_texts_equal_single_alignments() -> None:
    log_probs, lens = torch.randn(3, 15, 6).log_softmax(-1), torch.tensor([15, 0, 9])
    texts = [[[0, 0, 1], [], [2]], [[]], [[1, 2, 4, 4]]]
    hyps = align_texts(log_probs, lens, texts, blank=BLANK)
    for row, n in enumerate(lens.tolist()):
        for hyp, tokens in zip(hyps[row], texts[row], strict=True):
            path, scores = align_ctc(log_probs[row, :n], torch.tensor(tokens, dtype=torch.int64), blank=BLANK)
            assert hyp == collapse_ctc(path.tolist(), scores.tolist(), blank=BLANK)
