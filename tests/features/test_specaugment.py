"""SpecAugment: how much it hides, where, and for whom."""

import torch

from maya.features import SpecAugment, SpecAugmentConfig


def hidden(cfg, lens, frames=200, bins=80, seed=0):
    feats = torch.ones(len(lens), frames, bins)
    return SpecAugment(cfg)(feats, torch.tensor(lens), torch.Generator().manual_seed(seed)) == 0


def test_off_in_evaluation_and_leaves_its_input_alone():
    feats, lens = torch.ones(2, 50, 80), torch.tensor([50, 20])
    augment = SpecAugment(SpecAugmentConfig())
    assert (augment(feats, lens) == 0).any() and (feats == 1).all()
    assert augment.eval()(feats, lens) is feats
    off = SpecAugment(SpecAugmentConfig(freq_masks=0, time_masks=0))
    assert torch.equal(off(feats, lens), feats)


def test_time_bands_stay_within_each_utterance_and_its_own_width():
    lens = [200, 100, 40, 1, 0] * 40
    cfg = SpecAugmentConfig(freq_masks=0, time_masks=1, time_width=0.1)
    frames = hidden(cfg, lens)
    assert torch.equal(frames.any(2), frames.all(2))  # a band covers every bin
    rows = frames.any(2)
    for n, row in zip(lens, rows, strict=True):
        assert not row[n:].any()
        assert int(row.sum()) <= max(1, n // 10)
        where = row.nonzero().flatten()
        assert len(where) == 0 or int(where[-1] - where[0]) + 1 == len(where)  # one contiguous band
    assert rows[0::5].sum(1).max() == 20 and rows[1::5].sum(1).max() == 10  # and the widest does occur


def test_frequency_bands_cover_all_frames_and_reach_both_edges():
    bands = hidden(SpecAugmentConfig(freq_masks=1, freq_width=27, time_masks=0), [100] * 400)
    assert torch.equal(bands.any(1), bands.all(1))
    widths = bands.any(1).sum(1)
    assert widths.max() == 27 and abs(widths.float().mean() - 13.5) < 1.5  # uniform on 0..27
    assert bands[:, 0, 0].any() and bands[:, 0, 79].any()


def test_expected_share_of_hidden_frames():
    share = hidden(SpecAugmentConfig(freq_masks=0), [200] * 500).any(2).float().mean()
    # Ten bands of mean width 5 of 200: 1 - (1 - 0.025)^10 = 0.224, a little less at the edges.
    assert abs(share - 0.22) < 0.015


def test_each_utterance_draws_its_own_and_the_generator_decides():
    cfg = SpecAugmentConfig()
    one = hidden(cfg, [200, 200])
    assert not torch.equal(one[0], one[1])
    assert torch.equal(one, hidden(cfg, [200, 200])) and not torch.equal(one, hidden(cfg, [200, 200], seed=1))


def test_fewer_bins_than_the_width():
    bands = hidden(
        SpecAugmentConfig(freq_masks=1, freq_width=27, time_masks=0), [10] * 200, frames=10, bins=8
    )
    assert bands.any(1).sum(1).max() == 8  # all of them, and no further
