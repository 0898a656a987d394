"""Spans that are hidden for masked prediction."""

import pytest
import torch

from maya.features.span_mask import SpanMaskConfig, hide, hubert_spans, normalized, span_mask


@pytest.mark.parametrize("cfg", [SpanMaskConfig(), hubert_spans()], ids=["best_rq", "hubert"])
def test_the_share_of_hidden_frames_is_that_of_random_beginnings(cfg: SpanMaskConfig) -> None:
    """1 - (1 - p)^span: 33 % with BEST-RQ's spans, 56 % with HuBERT's."""
    frames = round(cfg.seconds / 0.01)
    hidden = span_mask(torch.full((50,), 4000), 4000, cfg.probability, frames)
    expected = 1 - (1 - cfg.probability) ** frames
    assert hidden.float().mean() == pytest.approx(expected, abs=0.02)


def test_spans_have_their_length_and_lie_within_the_utterance() -> None:
    lens = torch.tensor([100, 30, 1, 0])
    hidden = span_mask(lens, 100, 0.0, 7)
    for row, size in zip(hidden, lens.tolist(), strict=True):
        places = row.nonzero()[:, 0].tolist()
        assert not row[size:].any() and len(places) <= 7
        # One span in each utterance with a frame, even where no frame drew one; it may be cut by the end.
        assert bool(places) is (size > 0)
        if places:
            assert places == list(range(places[0], min(places[0] + 7, size)))


def test_only_hidden_frames_change_and_nothing_of_them_is_visible() -> None:
    feats = torch.randn(2, 60, 5) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + 7
    lens, hidden = torch.tensor([60, 40]), torch.zeros(2, 60, dtype=torch.bool)
    hidden[:, 10:30] = True
    torch.manual_seed(1)
    noisy = hide(feats, lens, hidden, 0.1)
    assert torch.equal(noisy[~hidden], feats[~hidden])
    shuffled = feats.clone()
    shuffled[:, 10:30] = feats[:, 10:30].flip(1)  # the statistics stay
    torch.manual_seed(1)
    torch.testing.assert_close(hide(shuffled, lens, hidden, 0.1)[hidden], noisy[hidden])
    spread = (noisy[0, 10:30] - feats[0].mean(0)) / feats[0].std(0)
    assert spread.std() == pytest.approx(0.1, abs=0.03)


def test_normalized_features_do_not_depend_on_padding() -> None:
    feats = torch.randn(2, 60, 5) + 3
    both = normalized(feats, torch.tensor([60, 40]))
    torch.testing.assert_close(both[1, :40], normalized(feats[1:, :40], torch.tensor([40]))[0])
    assert not both[1, 40:].any()
    torch.testing.assert_close(both[0].mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[0].std(0, correction=0), torch.ones(5))
    assert not normalized(torch.ones(1, 9, 2), torch.tensor([9])).any()
