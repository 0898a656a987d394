"""Decoding with the attention decoder: brute force over all texts, rescoring by hand, bounds."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.attention import rescoring as module
from maya.decode.attention.beam import AttentionBeamConfig
from maya.decode.attention.beam import attention_beam as search
from maya.decode.attention.rescoring import RescoringConfig, attention_rescoring, attention_scores
from maya.decode.ctc.beam import BeamConfig, beam_ctc, nbest_ctc
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads.attention import AttentionDecoder, AttentionDecoderConfig

DIM = 6
BLANK = 0
WIDE = BeamConfig(beam=12, token_beam=1000.0, token_bonus=0.0)


def attention_beam(enc: Tensor, lens: Tensor, decoder: AttentionDecoder, **options: Any) -> list[Hypothesis]:
    return search(enc, lens, decoder, AttentionBeamConfig(**options))


def make(
    vocab: int = 5, eos: int | None = 1, blank: int | None = BLANK, sharp: float = 3.0
) -> AttentionDecoder:
    cfg = AttentionDecoderConfig(layers=2, dim=16, heads=2, feed_forward=24, eos=eos)
    decoder = AttentionDecoder(cfg, DIM, vocab, blank).eval()
    with torch.no_grad():
        decoder.output_layer.weight.mul_(sharp)
        for layer in decoder._layers():
            layer.src_attn.linear_v.weight.mul_(sharp)
    return decoder


@torch.no_grad()
def log_prob(decoder: AttentionDecoder, enc: Tensor, text: tuple[int, ...] | list[int]) -> float:
    """Log probability of one text for one utterance (S, D), from the logits of the whole forward."""
    tokens, lens = torch.tensor([list(text)], dtype=torch.int64), torch.tensor([len(text)])
    logits = decoder(enc[None], torch.tensor([len(enc)]), tokens, lens)[0].log_softmax(-1)
    return sum(float(logits[u, token]) for u, token in enumerate([*text, decoder.eos]))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(4, 9, DIM), torch.tensor([9, 6, 0, 3]), (2 * torch.randn(4, 9, 6)).log_softmax(-1)


def test_batched_scores_equal_single_texts(
    batch: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    enc, lens, _ = batch
    decoder = make()
    texts = [[[2, 3], [], [4, 4, 5, 2]], [[5]], [], [[3, 2, 2], [4]]]
    scores = attention_scores(Encoded(enc, lens), decoder, texts)
    assert [len(row) for row in scores] == [3, 1, 0, 2]
    for row, n in ((0, 9), (1, 6), (3, 3)):
        expected = [log_prob(decoder, enc[row, :n], text) for text in texts[row]]
        assert scores[row] == pytest.approx(expected, abs=1e-4)
    monkeypatch.setattr(module, "_MAX_LOGITS", 1)  # one utterance at a time
    again = attention_scores(Encoded(enc, lens), decoder, texts)
    for row, alone in zip(scores, again, strict=True):
        assert alone == pytest.approx(row, abs=1e-4)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0), (1.0, 0.0)])
def test_rescoring_picks_the_highest_weighted_sum(
    batch: tuple[Tensor, ...], scales: tuple[float, float]
) -> None:
    enc, lens, log_probs = batch
    decoder = make()
    cfg = RescoringConfig(beam=12, token_beam=1000.0, ctc_scale=scales[0], aed_scale=scales[1])
    hypotheses = attention_rescoring(Encoded(enc, lens), log_probs, decoder, blank=BLANK, cfg=cfg)
    first = beam_ctc(log_probs, lens, blank=BLANK, cfg=WIDE)
    nbest = nbest_ctc(log_probs, lens, blank=BLANK, cfg=WIDE)
    for row, n in enumerate(lens.tolist()):
        totals = {
            tuple(text): scales[0] * ctc
            + scales[1] * log_prob(decoder, enc[row, : max(n, 1)] * (n > 0), text)
            for text, ctc in nbest[row]
        }
        assert len(totals) == len(nbest[row])
        assert tuple(hypotheses[row].tokens) == max(totals, key=totals.__getitem__)
        assert len(hypotheses[row].frames) == len(hypotheses[row].tokens) == len(hypotheses[row].scores)
    assert ([h.tokens for h in hypotheses] == [h.tokens for h in first]) == (scales[1] == 0)


def test_nbest_is_sorted_and_sums_all_paths() -> None:
    log_probs = torch.randn(1, 4, 4).log_softmax(-1)
    (hypotheses,) = nbest_ctc(
        log_probs, torch.tensor([4]), blank=BLANK, cfg=BeamConfig(beam=999, token_beam=1e3, token_bonus=0.0)
    )
    assert [score for _, score in hypotheses] == sorted((score for _, score in hypotheses), reverse=True)
    assert sum(math.exp(score) for _, score in hypotheses) == pytest.approx(1, abs=1e-5)
    for text, score in hypotheses:
        if score > -math.inf:
            loss = torch.nn.functional.ctc_loss(
                log_probs[0],
                torch.tensor(text, dtype=torch.int64),
                torch.tensor(4),
                torch.tensor(len(text)),
                reduction="sum",
            )
            assert score == pytest.approx(-loss.item(), abs=1e-4)


def test_padding_is_never_read(batch: tuple[Tensor, ...]) -> None:
    enc, lens, log_probs = batch
    decoder = make()
    before = attention_rescoring(Encoded(enc, lens), log_probs, decoder, blank=BLANK, cfg=RescoringConfig())
    plain = attention_beam(enc, lens, decoder)
    for row, n in enumerate(lens.tolist()):
        enc[row, n:], log_probs[row, n:] = float("nan"), float("nan")
    after = attention_rescoring(Encoded(enc, lens), log_probs, decoder, blank=BLANK, cfg=RescoringConfig())
    assert [h.tokens for h in after] == [h.tokens for h in before]
    assert [h.tokens for h in attention_beam(enc, lens, decoder)] == [h.tokens for h in plain]


@pytest.mark.parametrize("length_norm", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_wide_beam_equals_exhaustive_search(seed: int, length_norm: float) -> None:
    torch.manual_seed(seed)
    decoder = make(vocab=4)
    enc, lens = torch.randn(2, 7, DIM), torch.tensor([7, 4])
    hypotheses = attention_beam(
        enc, lens, decoder, beam=80, max_tokens_per_frame=0.5, length_norm=length_norm
    )  # 3 and 2 tokens at most
    for hyp, row, n, longest in zip(hypotheses, enc, (7, 4), (3, 2), strict=True):
        texts = [t for u in range(longest + 1) for t in itertools.product((2, 3, 4), repeat=u)]
        totals = {t: log_prob(decoder, row[:n], t) / (len(t) + 1) ** length_norm for t in texts}
        assert tuple(hyp.tokens) == max(totals, key=totals.__getitem__)
        assert hyp.frames == hyp.durations == [] and len(hyp.scores) == len(hyp.tokens)


def test_beam_of_one_equals_greedy() -> None:
    decoder = make(eos=None, blank=None)
    assert decoder.eos == decoder.blank == 5
    enc, lens = torch.randn(5, 12, DIM), torch.tensor([12, 3, 7, 1, 12])
    hypotheses = attention_beam(enc, lens, decoder, beam=1)
    for hyp, row, n in zip(hypotheses, enc, lens.tolist(), strict=True):
        prefix: list[int] = []
        while len(prefix) < n:
            tokens = torch.tensor([prefix], dtype=torch.int64)
            logits = decoder(row[None, :n], torch.tensor([n]), tokens, torch.tensor([len(prefix)]))[0, -1]
            if int(logits.argmax()) == decoder.eos:
                break
            prefix.append(int(logits.argmax()))
        assert hyp.tokens == prefix
    assert sum(len(h.tokens) for h in hypotheses) > 5


@pytest.mark.parametrize("beam", [1, 3])
def test_length_limit_without_eos(beam: int) -> None:
    decoder = make()
    with torch.no_grad():
        decoder.output_layer.bias[decoder.eos] -= 1000
    enc, lens = torch.randn(4, 10, DIM), torch.tensor([10, 0, 4, 1])
    lengths = [
        [len(h.tokens) for h in attention_beam(enc, lens, decoder, beam=beam, max_tokens_per_frame=ratio)]
        for ratio in (1.0, 0.5, 0.01)
    ]
    assert lengths == [[10, 0, 4, 1], [5, 0, 2, 1], [1, 0, 1, 1]]


def test_blank_is_never_emitted() -> None:
    decoder = make()
    with torch.no_grad():
        decoder.output_layer.bias[BLANK] += 1000  # the likeliest output everywhere
        decoder.output_layer.bias[decoder.eos] -= 1000
    hypotheses = attention_beam(torch.randn(3, 8, DIM), torch.tensor([8, 8, 8]), decoder, beam=2)
    assert all(BLANK not in h.tokens for h in hypotheses) and any(h.tokens for h in hypotheses)


def test_row_alone_equals_row_in_batch() -> None:
    decoder = make()
    enc, lens = torch.randn(4, 10, DIM), torch.tensor([4, 10, 2, 7])
    together = attention_beam(enc, lens, decoder)
    for row, n in enumerate(lens.tolist()):
        (alone,) = attention_beam(enc[row : row + 1, :n], lens[row : row + 1], decoder)
        assert alone.tokens == together[row].tokens
        assert alone.scores == pytest.approx(together[row].scores, abs=1e-4)


def test_bad_arguments_are_refused() -> None:
    enc, lens = torch.randn(1, 3, DIM), torch.tensor([3])
    with pytest.raises(MayaError, match="beam"):
        attention_beam(enc, lens, make(), beam=0)
    with pytest.raises(MayaError, match="max_tokens_per_frame"):
        attention_beam(enc, lens, make(), max_tokens_per_frame=0.0)


def test_trained_decoder_decodes_its_texts_and_corrects_ctc() -> None:
    decoder = make(vocab=9, sharp=1.0)
    enc, lens = torch.randn(3, 8, DIM), torch.tensor([8, 6, 7])
    texts = [[2, 3, 3, 4], [5], [9, 8, 7, 6, 5]]
    tokens = torch.tensor([text + [0] * (5 - len(text)) for text in texts])
    token_lens = torch.tensor([len(text) for text in texts])
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        decoder.loss(enc, lens, tokens, token_lens).sum().backward()
        optimizer.step()
    for beam in (1, 4):
        assert [h.tokens for h in attention_beam(enc, lens, decoder, beam=beam)] == texts
    # CTC slightly prefers 4 to the correct 3.
    ctc_logits = torch.full((1, 8, 10), -9.0)
    for frame, token in enumerate([2, 0, 3, 0, 4, 0, 4, 0]):
        ctc_logits[0, frame, token] = 0.0
    ctc_logits[0, 4, 3] = -0.5
    cfg = RescoringConfig(beam=12, token_beam=1000.0)
    log_probs = ctc_logits.log_softmax(-1)
    assert beam_ctc(log_probs, lens[:1], blank=BLANK, cfg=WIDE)[0].tokens == [2, 3, 4, 4]
    (hyp,) = attention_rescoring(Encoded(enc[:1], lens[:1]), log_probs, decoder, blank=BLANK, cfg=cfg)
    assert hyp.tokens == texts[0] and hyp.frames == [0, 2, 4, 6]
