"""The resampler against an ideal one: length, pass band, aliases, and equal results in every reader."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import Recording

from maya.audio.load import as_audio, change_speed, load_audio, load_cut_audio, resample
from maya.audio.resampling import resample_channels
from maya.data.loading.acoustics import add_noise, convolve, reverberate
from maya.errors import MayaError
from tests.data.making import write_tone

RATES = [
    *((48000, 16000), (44100, 16000), (8000, 16000), (11025, 16000), (22050, 16000), (96000, 16000)),
    *((16000, 8000), (14400, 16000), (17600, 16000), (16001, 16000), (15999, 16000), (16000, 44100)),
    *((1000, 16000), (768_000, 16000), (16000, 14411)),
]


def sine(hertz: float, rate: int, seconds: float = 0.5) -> torch.Tensor:
    time = np.arange(round(seconds * rate)) / rate
    return torch.from_numpy(np.sin(2 * np.pi * hertz * time + 0.3).astype(np.float32))


def middle(audio: torch.Tensor) -> torch.Tensor:
    """Away from the ends, where the signal begins and the filter rings."""
    return audio[len(audio) // 4 : len(audio) * 3 // 4]


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_length_is_rounded_up(rate: int, new_rate: int) -> None:
    for n in (0, 1, 2, 3, 7, 100, 999, 1000, 4801):
        resampled = resample(torch.ones(n), rate, new_rate)
        assert len(resampled) == math.ceil(n * new_rate / rate) and resampled.dtype == torch.float32


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_pass_band_is_flat_and_in_time(rate: int, new_rate: int) -> None:
    """A sine is the sine, amplitude and phase: to 1e-4 up to 0.6 of the lower Nyquist frequency, and to what
    soxr documents of its roll-off, 0.01 dB, up to 0.9 of it."""
    nyquist = min(rate, new_rate) / 2
    seconds = 0.5 if nyquist > 1000 else 4.0
    for share in (0.01, 0.1, 0.3, 0.6, 0.8, 0.9):
        resampled = resample(sine(share * nyquist, rate, seconds), rate, new_rate)
        expected = sine(share * nyquist, new_rate, seconds + 0.1)[: len(resampled)]
        limit = 1e-4 if share < 0.7 else 10 ** (0.01 / 20) - 1
        assert float(middle(resampled - expected).abs().max()) < limit, share


@pytest.mark.parametrize(("rate", "new_rate"), [pair for pair in RATES if pair[0] > pair[1]])
def test_aliases_are_removed(rate: int, new_rate: int) -> None:
    """Frequencies above the lower Nyquist frequency are attenuated by 90 dB."""
    for hertz in np.linspace(new_rate / 2 * 1.02, rate / 2 * 0.98, 5) if rate > 1.1 * new_rate else ():
        resampled = resample(sine(float(hertz), rate), rate, new_rate)
        assert float(middle(resampled).abs().max()) < 3e-5


def test_channels_are_resampled_independently() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 3, 1000)).astype(np.float32)
    resampled = resample_channels(samples, 44100, 16000)
    assert resampled.shape == (2, 3, 363)
    assert np.array_equal(resampled[1, 2], resample_channels(samples[1, 2], 44100, 16000))


def test_an_upsampled_signal_has_no_image() -> None:
    audio = resample(sine(3000, 8000, 1.0), 8000, 16000)
    spectrum = torch.fft.rfft(middle(audio).double() * torch.hann_window(8000, dtype=torch.float64)).abs()
    hertz = torch.fft.rfftfreq(8000, 1 / 16000)
    assert float(spectrum[hertz > 4400].max() / spectrum.max()) < 1e-4


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.95, 1.0, 1.05, 1.1, 1.234, 2.0])
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_any_speed_at_any_rate(factor: float, rate: int) -> None:
    audio = change_speed(sine(440, rate), factor, rate)
    # The rate in between is a whole number of Hz.
    assert len(audio) == math.ceil(round(0.5 * rate) * rate / round(rate * factor))
    spectrum = torch.fft.rfft(audio * torch.hann_window(len(audio)), 1 << 18).abs()
    assert int(spectrum.argmax()) * rate / (1 << 18) == pytest.approx(440 * factor, abs=2.5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_lhotse_resamples_as_maya_does(tmp_path: Path, rate: int, channels: int) -> None:
    """Training reads cuts and transcription reads files; a model must get the same audio from both."""
    path = write_tone(tmp_path / "a.wav", 0.73, rate, channels)
    recording = Recording.from_file(path)
    cut = recording.resample(16000).to_cut()
    expected = load_audio(path)
    assert abs(cut.num_samples - len(expected)) <= 1
    n = min(cut.num_samples, len(expected)) - 1
    torch.testing.assert_close(load_cut_audio(cut)[:n], expected[:n], atol=1e-6, rtol=0)
    if channels == 1:
        faster = recording.perturb_speed(1.1).to_cut()
        ours = change_speed(load_audio(path, rate), 1.1, rate)
        n = min(faster.num_samples, len(ours)) - 1
        assert torch.equal(load_cut_audio(faster)[:n], ours[:n])


@pytest.fixture
def keep_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_does_not_change_the_result(keep_threads: None) -> None:
    """A loader's worker has one thread and the main process has more; results must be bit-identical."""
    generator = torch.Generator().manual_seed(0)
    audio, room, noise = (torch.randn(n, generator=generator) for n in (200_000, 16_000, 200_000))
    results = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results.append(
            [convolve(audio, room), reverberate(audio, room), add_noise(audio, noise, 7.0),
             resample(audio, 48000, 16000), change_speed(audio, 0.9, 16000)]
        )  # fmt: skip
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_convolution_is_exact() -> None:
    signal, kernel = torch.randn(500), torch.randn(37)
    expected = np.convolve(signal.double().numpy(), kernel.double().numpy())
    assert float(np.abs(convolve(signal, kernel).double().numpy() - expected).max()) < 2e-6


# Arrays


@pytest.mark.parametrize(
    ("dtype", "full_scale", "zero"),
    [("int8", 2**7, 0), ("uint8", 2**7, 2**7), ("int16", 2**15, 0), ("int32", 2**31, 0)],
)
def test_integers_are_scaled_by_their_type(dtype: str, full_scale: int, zero: int) -> None:
    limits = np.iinfo(dtype)
    array = np.array([limits.min, zero, limits.max, zero + full_scale // 2], dtype)
    expected = torch.tensor([-1.0, 0.0, (limits.max - zero) / full_scale, 0.5])
    for given in (array, torch.from_numpy(array), array.astype(array.dtype.newbyteorder(">"))[::1]):
        assert torch.equal(as_audio(given, 16000), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_not_scaled(dtype: str) -> None:
    array = np.array([-1, -0.25, 0, 0.5, 1], dtype)
    audio = as_audio(array, 16000)
    assert audio.dtype == torch.float32 and torch.equal(audio, torch.tensor([-1, -0.25, 0, 0.5, 1]))
    assert torch.equal(as_audio(array[::-1], 16000), audio.flip(0))
    array.flags.writeable = False
    assert torch.equal(as_audio(array, 16000), audio)
    assert torch.equal(as_audio(torch.tensor(array.tolist(), dtype=torch.bfloat16), 16000), audio)
    assert torch.equal(as_audio(torch.tensor(array.tolist(), requires_grad=True), 16000), audio)
    assert len(as_audio(np.zeros(0, dtype), 16000)) == 0


@pytest.mark.parametrize(
    "dtype", ["bool", "complex64", "int64", "uint16", "uint32", "uint64", "object", "U1"]
)
def test_types_without_a_full_scale_are_refused(dtype: str) -> None:
    with pytest.raises(MayaError, match=r"have no usual full scale; give float in \[-1, 1\], int16"):
        as_audio(np.array([0, 1, 1]).astype(dtype), 16000)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_samples_are_refused(bad: float) -> None:
    for given in (np.array([0.0, bad, bad]), torch.tensor([0.0, bad, bad], dtype=torch.float16)):
        with pytest.raises(MayaError, match="2 of 3 samples are not finite numbers"):
            as_audio(given, 16000)


SHAPES = [
    ((2, 500), r"array\[0\], or the average, array.mean\(0\)"),
    ((500, 2), r"array\[:, 0\], or the average, array.mean\(1\)"),
    *(((1, 500), r"array\[0\]"), ((500, 1), r"array\[:, 0\]"), ((), ""), ((2, 3, 4), "")),
]


@pytest.mark.parametrize(("shape", "advice"), SHAPES)
def test_bad_shapes_are_refused_with_advice(shape: tuple[int, ...], advice: str) -> None:
    with pytest.raises(MayaError, match=rf"one-dimensional, \(N,\) at 8000 Hz; this one has .*{advice}"):
        as_audio(np.zeros(shape, np.float32), 8000)
