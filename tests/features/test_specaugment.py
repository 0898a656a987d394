"""SpecAugment: the share, the place and the utterances of masks."""

import torch

from maya.features import SpecAugment, SpecAugmentConfig
from maya.features.specaugment import lhotse


def hidden(cfg, lens, frames=200, bins=80, seed=0):
    feats = torch.ones(len(lens), frames, bins)
    return SpecAugment(cfg)(feats, torch.tensor(lens), torch.Generator().manual_seed(seed)) == 0


def test_off_in_evaluation_and_input_is_not_modified():
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


def test_expected_share_of_masked_frames():
    share = hidden(SpecAugmentConfig(freq_masks=0), [200] * 500).any(2).float().mean()
    # Ten bands of mean width 5 of 200: 1 - (1 - 0.025)^10 = 0.224, a little less at the edges.
    assert abs(share - 0.22) < 0.015


def test_masks_differ_by_utterance_and_depend_on_the_generator():
    cfg = SpecAugmentConfig()
    row = hidden(cfg, [200, 200])
    assert not torch.equal(row[0], row[1])
    assert torch.equal(row, hidden(cfg, [200, 200])) and not torch.equal(row, hidden(cfg, [200, 200], seed=1))


def test_fewer_bins_than_the_mask_width():
    bands = hidden(
        SpecAugmentConfig(freq_masks=1, freq_width=27, time_masks=0), [10] * 200, frames=10, bins=8
    )
    assert bands.any(1).sum(1).max() == 8  # at most all bins


def test_lhotse_rule_without_time_masks():
    cfg = lhotse(time_mask_ratio=0.05)  # icefall takes int(10 * ratio) masks
    assert cfg.time_masks == 0
    feats, lens = torch.ones(2, 300, 80), torch.tensor([300, 100])
    masked = SpecAugment(cfg).train()(feats, lens)
    assert masked.isfinite().all()


def test_lhotse_rule_limits_share_and_width():
    lens = [1500, 600, 200] * 100
    cfg = lhotse()
    cfg.freq_masks, cfg.probability = 0, 1.0
    feats = torch.randn(len(lens), 1500, 4) + 3
    out = SpecAugment(cfg)(feats, torch.tensor(lens), torch.Generator().manual_seed(0))
    hidden_frames = (out != feats).all(2)
    for n, row in zip(lens, hidden_frames, strict=True):
        assert int(row.sum()) <= 0.15 * n + 1e-6 and not row[n:].any()
    assert int(hidden_frames[0::3].sum(1).max()) > 150  # three bands of up to 75 frames
    filled = out[hidden_frames]
    assert abs(float(filled.mean()) - 3) < 0.05 and float(filled.std()) < 0.1  # each utterance's own mean


def test_probability_leaves_some_utterances_unmasked():
    cfg = lhotse()
    feats = torch.randn(1000, 100, 8)
    out = SpecAugment(cfg)(feats, torch.full((1000,), 100), torch.Generator().manual_seed(0))
    untouched = (out == feats).all(2).all(1).float().mean()
    assert 0.08 < untouched < 0.16  # one in ten, and utterances whose bands have width 0


def test_time_warping_keeps_ends_order_and_padding():
    cfg = lhotse()
    cfg.probability = 1.0
    lens = torch.tensor([400, 300, 100])
    ramp = torch.arange(400.0)[None, :, None].expand(3, 400, 2).clone()
    out = SpecAugment(cfg).warp(ramp, lens, torch.Generator().manual_seed(3))
    for n, row in zip([400, 300], out, strict=False):
        assert row[0, 0] == 0 and abs(row[n - 1, 0] - (n - 1)) < 2
        assert (row[:n, 0].diff() >= 0).all() and torch.equal(row[n:], ramp[0, n:])
        assert 1 < (row[:n, 0] - ramp[0, :n, 0]).abs().max() <= 81
    assert torch.equal(out[2], ramp[2])  # too short for a point 81 frames from both ends
    assert SpecAugment(cfg).eval().warp(ramp, lens) is ramp
