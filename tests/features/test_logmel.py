"""The log-mel front end against NeMo's recorded features and against its own definition."""

import math

import pytest
import torch

from maya.errors import MayaError
from maya.features import LogMel, LogMelConfig, logmel
from maya.features.logmel import LOG_GUARD, slaney_filterbank


@pytest.fixture(scope="module")
def golden(shared):
    return torch.load(shared / "golden/nemo/tdt_ctc_tiny.pt", weights_only=True)


def front_end(**options):
    return LogMel(LogMelConfig(**options)).eval()


def fp64_features(wav, lens, window, fb):
    """The definition in fp64, with a matrix for the Fourier transform."""
    rows = []
    for x, n in zip(wav.double(), lens.tolist(), strict=True):
        x = torch.cat([x[:1], x[1:n] - 0.97 * x[: n - 1]])
        frames = torch.nn.functional.pad(x, (256, 256)).unfold(0, 512, 160)[: n // 160]
        tapered = frames * torch.nn.functional.pad(window.double(), (56, 56))
        angle = 2 * math.pi * torch.arange(257)[:, None] * torch.arange(512) / 512
        power = (tapered @ angle.cos().double().t()) ** 2 + (tapered @ angle.sin().double().t()) ** 2
        mel = torch.log(power @ fb[0].double().t() + LOG_GUARD)
        rows.append((mel - mel.mean(0)) / (mel.std(0) + 1e-5))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def test_buffers_equal_nemo(golden):
    state = {
        k.removeprefix("preprocessor.featurizer."): v
        for k, v in golden["state_dict"].items()
        if "featurizer" in k
    }
    own = front_end().state_dict()
    assert own.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(own[name], value, rtol=0, atol=1e-7)


def test_features_equal_nemo(golden):
    feats, lens = front_end()(golden["wav"], golden["lens"])
    recorded = golden["feat"].transpose(1, 2)
    assert torch.equal(lens, golden["flen"])
    error = (feats - recorded[:, :200]).abs()
    assert not recorded[:, 200:].any()  # NeMo's extra frame carries nothing
    # Where a filter's energy nearly cancels, fp32 Fourier transforms of different processors differ: the
    # recording itself is 4e-5 from fp64 there. Everywhere else the two agree.
    assert error.quantile(0.97) <= 1e-5 and error.mean() <= 2e-6 and error.max() <= 3e-4


def test_fp32_features_are_as_close_to_fp64_as_nemo(golden):
    fe = front_end()
    feats, _ = fe(golden["wav"], golden["lens"])
    truth = fp64_features(golden["wav"], golden["lens"], fe.window, fe.fb)
    nemo = (golden["feat"].transpose(1, 2)[:, :200] - truth).abs()
    ours = (feats - truth).abs()
    assert ours.mean() <= 2 * nemo.mean() and ours.max() <= 3 * nemo.max()


def test_filterbank_has_unit_area_and_no_empty_filter():
    for mels in (40, 80, 128):
        fb = slaney_filterbank(mels, 512, 16000)[0]
        assert fb.shape == (mels, 257) and (fb >= 0).all() and (fb.sum(1) > 0).all()
        # 512 bins are too coarse to integrate over.
        area = slaney_filterbank(mels, 32768, 16000)[0].sum(1) * 16000 / 32768
        torch.testing.assert_close(area, torch.ones_like(area), rtol=1e-3, atol=0)


def test_a_tone_peaks_in_the_filter_at_its_frequency():
    t = torch.arange(16000) / 16000
    fe = front_end(normalize="none")
    for hz in (500.0, 1500.0, 4000.0):
        feats, _ = fe(torch.sin(2 * math.pi * hz * t)[None], torch.tensor([16000]))
        best = feats[0, 50].argmax()
        centre = (fe.fb[0, best] * torch.arange(257) * 31.25).sum() / fe.fb[0, best].sum()
        assert abs(centre - hz) < 0.1 * hz


@pytest.mark.parametrize("normalize", ["per_feature", "none"])
def test_an_utterance_does_not_depend_on_its_batch(normalize):
    fe = front_end(normalize=normalize)
    lens = torch.tensor([16000, 9999, 4000, 163, 159, 0])
    audio = torch.randn(6, 16000)  # noise beyond the lengths as well
    feats, feat_lens = fe(audio, lens)
    assert feats.shape == (6, 100, 80) and feat_lens.tolist() == [100, 62, 25, 1, 0, 0]
    for row, n in enumerate(lens.tolist()):
        alone, alone_lens = fe(audio[row : row + 1, : max(n, 1)], lens[row : row + 1])
        frames = int(feat_lens[row])
        assert int(alone_lens) == frames
        torch.testing.assert_close(alone[0, :frames], feats[row, :frames], rtol=0, atol=2e-5)
        assert not feats[row, frames:].any() and not alone[0, frames:].any()


@pytest.mark.parametrize("samples", [1, 100, 160, 200, 256, 257, 400, 639])
@pytest.mark.parametrize("legacy", [False, True])
def test_very_short_audio_is_finite(samples, legacy):
    feats, lens = front_end(legacy=legacy)(torch.randn(2, samples), torch.tensor([samples, 0]))
    assert feats.isfinite().all()
    assert lens.tolist() == [samples // 160 + legacy, 0]
    assert feats.shape[1] == max(1, samples // 160 + legacy)


def test_one_frame_and_silence_become_zero():
    feats, _ = front_end()(torch.randn(1, 170), torch.tensor([170]))
    assert not feats.any()  # one frame minus its mean is zero
    feats, _ = front_end()(torch.zeros(1, 3200), torch.tensor([3200]))
    assert feats.abs().max() < 1e-3


def test_per_feature_statistics():
    feats, lens = front_end()(torch.randn(2, 32000), torch.tensor([32000, 20000]))
    for row, n in enumerate(lens.tolist()):
        valid = feats[row, :n]
        torch.testing.assert_close(valid.mean(0), torch.zeros(80), rtol=0, atol=1e-4)
        torch.testing.assert_close(valid.std(0), torch.ones(80), rtol=0, atol=1e-3)


def test_legacy_reflects_and_has_one_frame_more():
    audio, lens = torch.randn(1, 8000), torch.tensor([8000])
    new, _ = front_end(normalize="none")(audio, lens)
    old, old_lens = front_end(normalize="none", legacy=True)(audio, lens)
    assert old_lens.tolist() == [51] and old.shape[1] == 51
    torch.testing.assert_close(old[:, 2:48], new[:, 2:48])  # equal away from the ends
    assert not torch.allclose(old[:, 0], new[:, 0], atol=1e-2)
    tail = torch.cat([audio, torch.randn(1, 800)], 1)
    assert not torch.allclose(
        front_end(normalize="none", legacy=True)(tail, lens)[0][:, 50], old[:, 50], atol=1e-2
    )


def test_dither_only_while_training():
    fe = front_end(dither=1e-2, normalize="none")
    audio, lens = torch.zeros(1, 3200), torch.tensor([3200])
    assert torch.equal(fe(audio, lens)[0], fe(audio, lens)[0])
    fe.train()
    assert not torch.equal(fe(audio, lens)[0], fe(audio, lens)[0])


def test_fp32_under_autocast_and_for_half_audio():
    fe, lens = front_end(), torch.tensor([8000])
    audio = torch.randn(1, 8000).half()
    with torch.autocast("cpu", torch.bfloat16):
        feats, _ = fe(audio, lens)
    assert feats.dtype == torch.float32
    assert torch.equal(feats, fe(audio.float(), lens)[0])


def test_128_mels_meta_device_and_a_window_too_long():
    with torch.device("meta"):
        fe = LogMel(LogMelConfig(num_mels=128))
    fe.to_empty(device="cpu").reset_parameters()
    assert torch.equal(fe.fb, front_end(num_mels=128).fb) and torch.equal(fe.window, front_end().window)
    with pytest.raises(MayaError, match="n_fft=256"):
        front_end(n_fft=256)


def test_an_odd_transform_and_a_window_without_samples_are_refused():
    """torch's STFT would give a frame less than `frames` says, or raise its own error."""
    with pytest.raises(MayaError, match="n_fft=401 is odd; take an even number, such as 402"):
        front_end(n_fft=401)
    with pytest.raises(MayaError, match="the window of 0 samples"):
        front_end(window_ms=0.01)


@pytest.mark.parametrize("options", [{}, {"legacy": True}, {"normalize": "none"}, {"preemphasis": 0.0}])
@pytest.mark.parametrize("size", [160 * 1000, 160 * 1001 + 80, 160 * 1024 - 1])
def test_long_audio_in_chunks_equals_one_piece(options, size, monkeypatch):
    fe = front_end(**options)
    audio, lens = 0.1 * torch.randn(2, size), torch.tensor([size, size - 70_001])
    whole, whole_lens = fe(audio, lens)
    monkeypatch.setattr(logmel, "STRETCH_FRAMES", 100)
    monkeypatch.setattr(LogMel, "_power", None)  # the whole-signal path is not used
    parts, part_lens = fe(audio, lens)
    assert torch.equal(whole_lens, part_lens) and whole.shape == parts.shape
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def speech_like(samples=16000):
    time = torch.arange(samples) / 16000
    return 0.2 * torch.sin(2 * math.pi * 500 * time) * torch.sin(2 * math.pi * 3 * time) ** 2


def test_peak_levels_do_not_depend_on_gain_or_surrounding_silence():
    fe, audio = front_end(normalize="peak", floor_db=40.0), speech_like()
    feats, _ = fe(audio[None], torch.tensor([16000]))
    loud, _ = fe(audio[None] * 4, torch.tensor([16000]))
    torch.testing.assert_close(loud, feats, atol=0.06, rtol=0)  # LOG_GUARD is at the floor
    wide = torch.nn.functional.pad(audio, (8000, 4000))[None]
    padded, lens = fe(wide, torch.tensor([28000]))
    torch.testing.assert_close(padded[0, 50 : 50 + 98], feats[0, :98], atol=1e-3, rtol=0)
    assert (padded[0, :48] == -1).all() and int(lens[0]) == 175
    assert float(feats.max()) == 3 and float(feats.min()) == -1


def test_local_peaks_give_quiet_words_the_levels_of_loud_ones():
    fe, word = front_end(normalize="peak", peak_frames=20), speech_like()
    gap = torch.zeros(16000)
    audio = torch.cat([word, gap, 0.1 * word, gap, 0.01 * word])[None]
    feats, lens = fe(audio, torch.tensor([80000]))
    loud, quiet, quieter = (feats[0, start + 20 : start + 80] for start in (0, 200, 400))
    torch.testing.assert_close(quiet, loud, atol=0.2, rtol=0)  # LOG_GUARD is near the floor
    assert quieter.max() < loud.max() - 1, "at most 25 dB are made up for"
    assert feats[0, 130:170].max() < -0.7 and int(lens[0]) == 500, "silence stays near the floor"
    batch = torch.nn.functional.pad(audio, (0, 8000)).repeat(2, 1)
    together, _ = fe(batch, torch.tensor([80000, 88000]))
    torch.testing.assert_close(together[0, :500], feats[0], atol=1e-5, rtol=0)
    assert fe(torch.zeros(1, 1600), torch.tensor([1600]))[0].isfinite().all()
    assert fe(torch.zeros(1, 100), torch.tensor([100]))[0].isfinite().all()


def test_peak_levels_are_decibels_to_the_floor():
    fe, raw = front_end(normalize="peak", floor_db=40.0), front_end(normalize="none")
    lens = torch.tensor([16000, 9600])
    audio = torch.stack([speech_like(), speech_like().flip(0)])
    feats, frames = fe(audio, lens)
    levels, _ = raw(audio, lens)
    for row, n in enumerate(frames.tolist()):
        decibels = (levels[row, :n] - levels[row, :n].max()) * 10 / math.log(10)
        torch.testing.assert_close(feats[row, :n], (decibels.clamp(min=-40) / 10) + 3, atol=1e-4, rtol=0)
        assert not feats[row, n:].any()
    alone, _ = fe(audio[1:, :9600], lens[1:])
    torch.testing.assert_close(alone[0], feats[1, :60], atol=1e-5, rtol=0)
    assert fe(torch.zeros(1, 1600), torch.tensor([1600]))[0].isfinite().all()
    assert fe(torch.zeros(1, 0), torch.tensor([0]))[0].isfinite().all()


@pytest.mark.parametrize("normalize", ["per_feature", "peak", "none"])
def test_rows_by_themselves_equal_the_batch(normalize, monkeypatch):
    """Without padding, in stretches of 600 frames: around the borders of frames and stretches."""
    lens = torch.tensor([0, 1, 159, 160, 161, 96_000, 96_001, 192_160, 100_003])
    wav = torch.randn(len(lens), int(lens.max()), generator=torch.Generator().manual_seed(0)) * 0.1
    model = front_end(normalize=normalize).eval()
    assert model._takes_rows(wav, lens)
    feats, feat_lens = model(wav, lens)
    monkeypatch.setattr(LogMel, "_takes_rows", lambda *_: False)
    expected, expected_lens = model(wav, lens)
    assert torch.equal(feat_lens, expected_lens)
    torch.testing.assert_close(feats, expected, rtol=1e-4, atol=2e-4)
