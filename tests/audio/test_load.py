import io
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording

from maya.audio.load import change_speed, check_rate, load_audio, load_cut_audio, resample
from maya.errors import MayaError
from tests.data.making import tone, write_tone

FORMATS = [
    ("wav", "WAV", "PCM_16", 1e-3),
    ("wav", "WAV", "FLOAT", 1e-3),
    ("flac", "FLAC", "PCM_16", 1e-3),
    ("ogg", "OGG", "VORBIS", 0.05),
    ("opus", "OGG", "OPUS", 0.05),
    ("mp3", "MP3", "MPEG_LAYER_III", 0.05),
]


@pytest.mark.parametrize(
    ("suffix", "kind", "subtype", "tolerance", "rate"),
    [
        (*form, rate)
        for form in FORMATS
        for rate in (8000, 16000, 44100, 48000)
        if (form[2], rate) != ("OPUS", 44100)  # Opus has no such rate
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_rate_and_channel_count(
    tmp_path: Path, suffix: str, kind: str, subtype: str, tolerance: float, rate: int, channels: int
) -> None:
    path = write_tone(tmp_path / f"a.{suffix}", 1.0, rate, channels, format=kind, subtype=subtype)
    audio = load_audio(path)
    assert audio.dtype == torch.float32 and audio.ndim == 1
    assert abs(len(audio) - 16000) < 0.08 * 16000  # mp3 pads
    # The mean of channels with amplitudes 0.5 and 0.25, measured away from the edges, where codecs ring.
    amplitude = 0.5 if channels == 1 else 0.375
    middle = audio[4000:12000]
    assert float(middle.abs().max()) == pytest.approx(amplitude, abs=tolerance + 0.01)
    spectrum = torch.fft.rfft(middle * torch.hann_window(8000)).abs()
    assert int(spectrum.argmax()) * 2 == 220  # bins are 2 Hz wide
    from_bytes = load_audio(path.read_bytes())
    assert torch.equal(from_bytes, audio)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match=r"there is no audio file .*none\.wav"):
        load_audio(tmp_path / "none.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    with pytest.raises(MayaError, match=r"cannot decode .*bad\.wav"):
        load_audio(tmp_path / "bad.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(MayaError, match=r"empty\.wav holds no audio samples"):
        load_audio(tmp_path / "empty.wav")
    with pytest.raises(MayaError, match="cannot decode these bytes"):
        load_audio(b"nothing")


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_cut_audio_is_the_file_resampled(tmp_path: Path, rate: int) -> None:
    path = write_tone(tmp_path / "a.wav", 0.73, rate)
    cut = Recording.from_file(path).to_cut()
    assert torch.equal(load_cut_audio(cut), load_audio(path, rate))
    for new_rate in (8000, 16000, 22050):
        assert torch.equal(load_cut_audio(cut, new_rate), load_audio(path, new_rate))


def test_channels_of_a_cut_are_averaged(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", 0.5, 16000, 3)
    cut = Recording.from_file(path).to_cut()
    torch.testing.assert_close(load_cut_audio(cut), load_audio(path))


def test_missing_cut_audio_names_utterance_and_file(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav")
    cut = Recording.from_file(path, "utt-7").to_cut()
    assert isinstance(cut, MonoCut)
    path.unlink()
    with pytest.raises(MayaError, match=r"utterance 'utt-7': cannot read .*a\.wav") as caught:
        load_cut_audio(cut)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_matches_lhotse(tmp_path: Path, factor: float) -> None:
    path = write_tone(tmp_path / "a.wav", 0.8)
    cuts = CutSet.from_cuts([Recording.from_file(path).to_cut()])
    lhotse_audio = torch.from_numpy(next(iter(cuts.perturb_speed(factor))).load_audio()[0])
    ours = change_speed(load_audio(path), factor, 16000)
    assert len(ours) == math.ceil(12800 / factor)
    assert abs(len(ours) - len(lhotse_audio)) <= 1
    n = min(len(ours), len(lhotse_audio))
    torch.testing.assert_close(ours[: n - 1], lhotse_audio[: n - 1], atol=1e-6, rtol=0)


def test_resampling_removes_aliases() -> None:
    high = torch.from_numpy(tone(0.5, 48000, pitch=11000.0)).float()
    assert float(resample(high, 48000, 16000)[400:-400].abs().max()) < 0.02


def test_bytes_need_no_file_name() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.2), 16000, format="FLAC")
    assert len(load_audio(buffer.getvalue())) == 3200


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2**31 - 1, 2**31, 2**32 - 1])
def test_impossible_sampling_rates_are_refused(tmp_path: Path, rate: int) -> None:
    header = bytearray(write_tone(tmp_path / "a.wav").read_bytes())
    header[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(header)
    with pytest.raises(MayaError, match=r"cannot decode .*a\.wav as audio"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "rate",
    [1000, 8000, 11025, 12000, 15999, 16001, 22050, 24000, 32000, 44056, 44100, 48000, 96000, 768_000],
)
def test_rates_in_use_are_accepted(rate: int) -> None:
    check_rate(rate)


def test_a_claimed_number_of_samples_allocates_no_memory(tmp_path: Path) -> None:
    """A FLAC that claims 2^35 samples and holds 3200."""
    data = bytearray(write_tone(tmp_path / "a.flac", 0.2).read_bytes())
    data[21] |= 0x08  # the top bit of the 36 for the number of samples
    (tmp_path / "a.flac").write_bytes(data)
    with soundfile.SoundFile(tmp_path / "a.flac") as file:
        assert file.frames > 2**35
    tracemalloc.start()
    with pytest.raises(MayaError, match=r"cannot decode .*a\.flac"):
        load_audio(tmp_path / "a.flac")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("name", ["a.wav", "a.mp3"])
def test_a_part_without_a_duration_goes_to_the_end(tmp_path: Path, name: str) -> None:
    path = write_tone(tmp_path / name, 3.0)
    whole = load_audio(path)
    torch.testing.assert_close(load_audio(path, start=1.0), whole[16000:], atol=1e-6, rtol=0)
    with pytest.raises(MayaError, match="holds no audio samples"):
        load_audio(path, start=5.0)
