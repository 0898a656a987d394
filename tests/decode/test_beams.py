"""The parts of beam searches: hashes of prefixes, events of CTC, scores of some tokens only."""

import math

import pytest
import torch

from maya.decode.beams.ctc_events import ctc_events
from maya.decode.beams.ctc_prefixes import CTCPrefixes
from maya.decode.beams.fused_rows import FusedRows, FusionStart
from maya.decode.beams.hashing import extended, merge
from maya.decode.beams.texts_scorer import TextsScorer
from maya.decode.fusion import Fusion, Part
from maya.decode.lm.kneser_ney import NGram


def test_hashes_depend_on_every_token_and_its_place() -> None:
    hashes = {0: torch.zeros(1, dtype=torch.int64)}
    values = set()
    for text in ([0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0], [2**31]):
        h = hashes[0]
        for token in text:
            h = extended(h, torch.tensor([token]))
        values.add(int(h))
    assert len(values) == 7


def test_merge_adds_equal_hypotheses_on_the_first() -> None:
    totals = torch.tensor([[0.5, 0.2, 0.1, 0.05]]).log()
    keys = torch.tensor([[3, 4, 3, 5]])
    merged = merge(totals, keys[:, :, None] == keys[:, None])
    assert merged.exp().tolist() == [pytest.approx([0.6, 0.2, 0.0, 0.05])]


def test_events_are_the_frames_that_try_tokens() -> None:
    blank = 2
    quiet, loud = [-9.0, -9.0, 0.0], [-1.0, -3.0, -2.0]
    log_probs = torch.tensor([[quiet, loud, quiet], [quiet, loud, loud]])
    events = ctc_events(log_probs, torch.tensor([3, 2]), blank=blank, token_beam=3.0)
    assert events.active == [2] and events.columns == [2] and events.longest_gaps == [1]
    assert events.frames.tolist() == [1, 1]  # the last frame of the second row is padding
    assert events.tokens.tolist() == [[0, 1], [0, 1]]
    prefixes = CTCPrefixes(log_probs, torch.tensor([3, 2]), blank=blank, beam=2, token_beam=3.0, start=None)
    best = prefixes.search(n_best=1, length_norm=False)
    assert [row[0][0] for row in best] == [[0], [0]]
    # A token that is first tried on the second frame: its paths, of which some repeat it on the third.
    repeated = torch.tensor([-1.0, -1.0 - 9.0]).logsumexp(0)
    assert best[0][0][1] == pytest.approx(float(repeated), abs=1e-5)


def test_scores_of_some_tokens_equal_those_of_all() -> None:
    lm = NGram([[0, 1, 2], [1, 1]], 4, order=3)
    scorer = TextsScorer({"": lm}, ("hi",), outputs=5, blank=4, weight=0.5, bonus=0.25)
    fusion = Fusion([Part(weight=2.0, scorer=scorer)], blank=4, token_bonus=0.5)
    rows = FusedRows(FusionStart(fusion, fusion.start(2)), 2, 3, torch.zeros(1, 5))
    tokens = torch.tensor([[0, 3, 1]] * 6)
    assert torch.equal(rows.token_scores(tokens), rows.scores.gather(1, tokens))
    rows.advance(
        torch.tensor([0, 0, 1, 3, 4, 4]),
        torch.tensor([0, 1, 4, 4, 2, 4]),
        torch.tensor([1, 1, 0, 0, 1, 0]) > 0,
    )
    assert torch.allclose(rows.token_scores(tokens), rows.scores.gather(1, tokens))
    assert float(rows.scores[0, 1]) == pytest.approx(float(lm.log_probs(lm.advance(lm.start(), 0))[1]) + 1.0)
    assert rows.scores[:, 4].tolist() == [0.0] * 6
    unknown = scorer.start(1, torch.tensor([0]), None)  # no model of this language
    assert scorer.scores(unknown).tolist() == [[0.0] * 5] and not math.isnan(float(scorer.final(unknown)))
