"""Beam searches give a confidence for each token, as greedy search does, and attention decoders times."""

from typing import Any

import pytest
import torch

from maya.decode.attention.beam import AttentionBeamConfig
from maya.decode.beams.ctc_paths import place_tokens
from maya.decode.confidence import ConfidenceConfig, distribution_confidence
from maya.decode.ctc.beam import BeamConfig
from maya.decode.hypothesis import Hypothesis
from maya.decode.methods import METHODS
from maya.decode.transducer.alsd import ALSDConfig
from maya.text.tokenizer import Tokenizer
from tests.decode.test_methods import frames, icefall, recognizer, search, tokenizer  # noqa: F401  a fixture

BEAMS = ("alsd", "maes", "modified_beam", "ctc_beam", "attention_rescoring", "attention")


@pytest.mark.parametrize("name", BEAMS)
def test_every_token_and_word_has_a_confidence(name: str, tokenizer: Tokenizer) -> None:  # noqa: F811
    ours = recognizer(icefall(), tokenizer)
    encoded, langs = frames(ours)
    options = METHODS[name](beam=3, n_best=2)  # type: ignore[call-arg]
    hyps = search(ours, encoded, langs, name, options)
    every = [own for hyp in hyps for own in (hyp, *hyp.alternatives)]
    assert len(every) == 4 and sum(len(hyp.tokens) for hyp in every) > 4
    for hyp in every:
        assert len(hyp.confidences) == len(hyp.frames) == len(hyp.durations) == len(hyp.tokens)
        assert all(0 <= value <= 1 for value in hyp.confidences)
    for hyp in ours.with_text(hyps):
        assert len(hyp.words) == len(hyp.text.split())
        assert all(word.confidence is not None and word.start is not None for word in hyp.words)
    options = METHODS[name](beam=3, n_best=2, confidence=ConfidenceConfig(measure="none"))  # type: ignore[call-arg]
    without = search(ours, encoded, langs, name, options)
    assert [hyp.tokens for hyp in without] == [hyp.tokens for hyp in hyps]
    assert not any(hyp.confidences for hyp in without)


def test_beam_of_one_has_the_confidences_of_greedy_search(tokenizer: Tokenizer) -> None:  # noqa: F811
    ours = recognizer(icefall(), tokenizer)
    encoded, langs = frames(ours)
    greedy = search(ours, encoded, langs, "transducer")
    beam = search(ours, encoded, langs, "alsd", ALSDConfig(beam=1))
    for a, b in zip(greedy, beam, strict=True):
        assert a.tokens == b.tokens and a.frames == b.frames
        assert a.confidences == pytest.approx(b.confidences, abs=1e-5)


def test_confidences_of_a_ctc_beam_are_those_of_its_frames(tokenizer: Tokenizer) -> None:  # noqa: F811
    ours = recognizer(icefall(), tokenizer)
    encoded, langs = frames(ours)
    cfg = ConfidenceConfig(measure="max_prob", aggregation="mean")
    hyps = search(ours, encoded, langs, "ctc_beam", BeamConfig(lm_order=0, confidence=cfg, blank_penalty=2.0))
    for row, hyp in enumerate(hyps):
        of_frames = distribution_confidence(ours.model.head("ctc")(encoded.frames[row : row + 1])[0], cfg)
        for frame, span, value in zip(hyp.frames, hyp.durations, hyp.confidences, strict=True):
            assert value == pytest.approx(float(of_frames[frame : frame + span].mean()), abs=1e-5)


@pytest.mark.parametrize("without", [("transducer", "ctc"), ("transducer",)])
def test_attention_has_times_only_with_a_ctc_head(
    tokenizer: Tokenizer,  # noqa: F811
    without: tuple[str, ...],
) -> None:
    ours = recognizer(icefall(*without), tokenizer)
    decoder: Any = ours.model.head("attention")
    with torch.no_grad():
        decoder.output_layer.bias[decoder.eos] -= 100  # it writes as many tokens as it may
    encoded, langs = frames(ours)
    hyps = search(ours, encoded, langs, "attention", AttentionBeamConfig(beam=2, max_tokens_per_frame=0.4))
    assert [len(hyp.tokens) for hyp in hyps] == [3, 1]
    for hyp, length in zip(hyps, encoded.lens.tolist(), strict=True):
        assert len(hyp.frames) == len(hyp.durations) == ("ctc" not in without) * len(hyp.tokens)
        assert hyp.frames == sorted(hyp.frames) and all(0 <= frame < length for frame in hyp.frames)


def test_placed_tokens_are_on_the_best_path_or_spread() -> None:
    log_probs = torch.full((1, 6, 4), -20.0)
    for frame, token in enumerate([3, 0, 3, 1, 1, 3]):
        log_probs[0, frame, token] = 0.0
    hyp = Hypothesis(tokens=[0, 1], alternatives=[Hypothesis(tokens=[0, 0, 0, 0])])
    place_tokens([hyp], log_probs, torch.tensor([6]), blank=3)
    assert hyp.frames == [1, 3] and hyp.durations == [1, 2]
    assert hyp.alternatives[0].frames == [0, 1, 3, 4]  # four equal tokens need seven frames
    empty = Hypothesis()
    place_tokens([empty], log_probs, torch.tensor([6]), blank=3)
    assert empty == Hypothesis()
