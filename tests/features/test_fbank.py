"""The Kaldi filter bank against torchaudio's, kaldi_native_fbank's and a definition in fp64."""

import json
import math

import pytest
import soundfile
import torch

from maya.errors import MayaError
from maya.features import Fbank, FbankConfig
from maya.features.fbank import ENERGY_FLOOR, FbankStream, kaldi_filterbank, povey_window
from tests import oracles

SILENCE = math.log(ENERGY_FLOOR)


def front_end(**options):
    return Fbank(FbankConfig(**options)).eval()


@pytest.fixture(scope="module")
def waveforms(shared_or_none):
    """Noise at the level of one bit, at a tenth of full scale and on a constant; silence; recorded speech."""
    g = torch.Generator().manual_seed(1)
    bits = (3 * torch.randn(24000, generator=g)).round() / 32768
    made = [0.1 * torch.randn(16000, generator=g), bits, bits[:9999] + 0.1, torch.zeros(3000)]
    if shared_or_none is None:
        return made
    folder = shared_or_none / "corpora/indic12"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").open(encoding="utf-8")]
    pieces = [soundfile.read(folder / row["audio"], dtype="float32")[0] for row in rows[::600]]
    return [torch.from_numpy(x) for x in pieces] + made


@pytest.fixture(scope="module")
def shared_or_none(repo):
    path = repo.parent / "shared"
    return path if path.is_dir() else None


def fp64_features(x):
    """Kaldi's definition, frame by frame on mirrored indices, in fp64."""
    x, n = x.double(), len(x)
    index = 160 * torch.arange((n + 80) // 160)[:, None] - 120 + torch.arange(400)
    index = torch.where(index < 0, -index - 1, index)
    frames = x[torch.where(index >= n, 2 * n - 1 - index, index)]
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], 1)
    taper = (0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(400).double() / 399)) ** 0.85
    power = torch.fft.rfft(frames * taper, n=512).abs() ** 2

    mel = [1127 * math.log(1 + hz / 700) for hz in (20, 7600)]
    edges = [mel[0] + (mel[1] - mel[0]) * i / 81 for i in range(82)]
    filters = torch.zeros(80, 257, dtype=torch.float64)
    for b in range(256):
        m = 1127 * math.log(1 + b * 31.25 / 700)
        for i in range(80):
            low, centre, high = edges[i : i + 3]
            filters[i, b] = max(0.0, min((m - low) / (centre - low), (high - m) / (high - centre)))
    return torch.log((power @ filters.t()).clamp(min=ENERGY_FLOOR))


def torchaudio_features(x):
    kaldi = oracles.torchaudio("compliance.kaldi")
    return kaldi.fbank(x[None], num_mel_bins=80, high_freq=-400.0, snip_edges=False)


def native_features(x):
    native = pytest.importorskip("kaldi_native_fbank")
    options = native.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400
    computer = native.OnlineFbank(options)
    computer.accept_waveform(16000, x.numpy())
    computer.input_finished()
    frames = [torch.from_numpy(computer.get_frame(i)) for i in range(computer.num_frames_ready)]
    return torch.stack(frames)


def test_features_are_closer_to_fp64_than_torchaudio(waveforms):
    """Errors of 1e-4 occur where a filter's bins nearly cancel, in every fp32 implementation."""
    fe = front_end()
    own, errors = [], []
    for x in waveforms:
        truth = fp64_features(x)
        own.append((fe(x[None], torch.tensor([len(x)]))[0][0] - truth).abs().flatten())
        errors.append((torchaudio_features(x) - truth).abs().flatten())
    own, errors = torch.cat(own), torch.cat(errors)
    assert own.mean() <= 0.5 * errors.mean() and own.mean() <= 2e-6
    assert own.quantile(0.999) <= errors.quantile(0.999) and own.max() <= 2 * errors.max()


@pytest.mark.parametrize("other", [torchaudio_features, native_features])
def test_features_equal_other_implementations_within_rounding(waveforms, other):
    """The bounds are the others' own distance from fp64: 3e-6 on average, 1e-4 in one cell of a thousand,
    1e-3 in the worst (of logarithms around -10, so 1e-4 relative)."""
    fe = front_end()
    for x in waveforms:
        feats, lens = fe(x[None], torch.tensor([len(x)]))
        expected = other(x)
        assert feats.shape[1:] == expected.shape and int(lens) == len(expected)
        error = (feats[0] - expected).abs()
        assert error.mean() <= 1e-5 and error.quantile(0.99) <= 1e-4 and error.max() <= 2e-3
        assert (error / expected.abs().clamp(min=1)).max() <= 2e-4


def test_filters_and_window_equal_torchaudio_within_rounding():
    kaldi = oracles.torchaudio("compliance.kaldi")
    filters, _ = kaldi.get_mel_banks(80, 512, 16000.0, 20.0, -400.0, 100.0, -500.0, 1.0)
    own = kaldi_filterbank(80, 512, 16000, 20.0, -400.0)[0]
    torch.testing.assert_close(own[:, :256], filters, rtol=0, atol=2e-5)
    assert torch.equal(own[:, :256] > 0, filters > 0) and not own[:, 256].any() and (own.sum(1) > 0.5).all()
    expected = torch.hann_window(400, periodic=False).pow(0.85)
    torch.testing.assert_close(povey_window(400), expected, rtol=0, atol=1e-6)
    assert povey_window(400)[0] == 0  # the batched pre-emphasis needs this


def test_an_utterance_does_not_depend_on_its_batch(waveforms):
    fe, lens = front_end(), torch.tensor([len(x) for x in waveforms])
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=float("nan"))
    feats, feat_lens = fe(batch, lens)
    for row, x in enumerate(waveforms):
        alone, _ = fe(x[None], lens[row : row + 1])
        frames = int(feat_lens[row])
        torch.testing.assert_close(feats[row, :frames], alone[0], rtol=0, atol=2e-6)
        assert (feats[row, frames:] == math.log(1e-10)).all()


@pytest.mark.parametrize(
    "samples", [1, 79, 80, 81, 119, 120, 121, 199, 201, 240, 279, 280, 281, 399, 400, 401]
)
def test_short_audio_is_mirrored_repeatedly(samples):
    """Kaldi's rule for an index outside: mirror it at the end it is beyond, until it lies inside."""
    x = torch.randn(samples) / 10

    def inside(i):
        while not 0 <= i < samples:
            i = -i - 1 if i < 0 else 2 * samples - 1 - i
        return i

    frames = (samples + 80) // 160
    audio = torch.zeros(2, 700)
    audio[0, :samples] = x
    feats, lens = front_end(padding_value=0.0)(audio, torch.tensor([samples, 0]))
    assert lens.tolist() == [frames, 0] and feats.shape == (2, 4, 80) and not feats[1].any()
    mirrored = torch.stack([x[inside(i)] for i in range(-1280, 160 * frames + 1280)])
    expected = fp64_features(mirrored)[8 : 8 + frames]
    torch.testing.assert_close(feats[0, :frames].double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("chunk", [37, 160, 517, 4000, 100000])
def test_streamed_features_equal_those_of_the_whole_audio(chunk):
    fe, audio = front_end(), torch.randn(3, 16123) / 10
    whole, _ = fe(audio, torch.full((3,), 16123))
    stream, out, samples = FbankStream(fe), [], 0
    for _ in range(2):  # a finished stream can be used again
        out, samples = [], 0
        for part in audio.split(chunk, 1):
            out.append(stream.push(part))
            samples += part.shape[1]
            ready = (samples + 120 - 400) // 160 + 1 if samples >= 280 else 0
            assert sum(x.shape[1] for x in out) == ready  # complete frames are returned at once
        out.append(stream.finish())
        torch.testing.assert_close(torch.cat(out, 1), whole, rtol=0, atol=5e-6)


@pytest.mark.parametrize("samples", [0, 50, 100, 279, 280, 300])
def test_stream_of_very_short_audio(samples):
    fe, audio = front_end(), torch.randn(2, samples) / 10
    stream = FbankStream(fe)
    out = torch.cat([stream.push(audio[:, :30]), stream.push(audio[:, 30:]), stream.finish()], 1)
    assert out.shape == (2, (samples + 80) // 160, 80)
    if out.shape[1]:
        torch.testing.assert_close(out, fe(audio, torch.full((2,), samples))[0], rtol=0, atol=5e-6)
    with pytest.raises(MayaError, match="before any audio"):
        stream.finish()


def test_digital_silence_and_a_constant_are_at_the_floor():
    for level in (0.0, 0.3, -1.0):
        feats, _ = front_end()(torch.full((1, 3200), level), torch.tensor([3200]))
        torch.testing.assert_close(feats, torch.full_like(feats, SILENCE), rtol=0, atol=1e-6)


def test_dither_is_for_training_and_uses_the_generator():
    fe = front_end(dither=1e-3)
    audio, lens = torch.zeros(1, 3200), torch.tensor([3200])
    assert torch.equal(fe(audio, lens)[0], fe(audio, lens)[0])
    fe.train()
    draw = [fe(audio, lens, torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    # White noise of standard deviation s has s^2 * (sum of the squared taper) of power in every bin.
    expected = math.log(1e-6 * float((povey_window(400) ** 2).sum()))
    top = draw[2][0, :, 70].exp().mean().log() - math.log(float(fe.fb[0, 70].sum()))
    assert abs(float(top) - expected - math.log(1.97**2)) < 0.5  # pre-emphasis lifts the top to about 1.97


def test_fp32_under_autocast_and_for_half_audio():
    fe, lens = front_end(), torch.tensor([8000])
    audio = (torch.randn(1, 8000) / 10).half()
    with torch.autocast("cpu", torch.bfloat16):
        feats, _ = fe(audio, lens)
    assert feats.dtype == torch.float32
    assert torch.equal(feats, fe(audio.float(), lens)[0])


def test_other_sample_rates():
    kaldi = oracles.torchaudio("compliance.kaldi")
    x = torch.randn(8000) / 10
    fe = front_end(sample_rate=8000, num_mels=40)
    expected = kaldi.fbank(
        x[None], num_mel_bins=40, high_freq=-400.0, snip_edges=False, sample_frequency=8000.0
    )
    torch.testing.assert_close(fe(x[None], torch.tensor([8000]))[0][0], expected, rtol=0, atol=2e-3)


def test_buffers_on_the_meta_device():
    with torch.device("meta"):
        made = Fbank(FbankConfig())
    made.to_empty(device="cpu").reset_parameters()
    assert torch.equal(made.fb, front_end().fb) and torch.equal(made.window, front_end().window)
    assert not made.state_dict()  # icefall's checkpoints have no front end


def test_filters_do_not_depend_on_the_default_device():
    with torch.device("meta"):
        filters = kaldi_filterbank(80, 512, 16000, 20.0, -400.0)
    assert torch.equal(filters, front_end().fb)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"hop_ms": 30.0}, "hop_ms=30"), ({"high_hz": 9000.0}, "no band"), ({"low_hz": 7700.0}, "no band")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(MayaError, match=message):
        front_end(**options)


@pytest.mark.gpu
def test_gpu_equals_cpu():
    audio, lens = torch.randn(3, 32000) / 10, torch.tensor([32000, 15999, 80])
    feats, feat_lens = front_end()(audio, lens)
    on_gpu, gpu_lens = front_end().cuda()(audio.cuda(), lens.cuda())
    assert torch.equal(gpu_lens.cpu(), feat_lens)
    assert (on_gpu.cpu() - feats).abs().mean() <= 5e-6
