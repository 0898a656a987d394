import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maya.audio.load import resample
from maya.audio.sound import measure_sound
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.measure.reasons import SOUND as REASONS
from maya.data.prepare.audio_checks import AudioCheckConfig, audio_findings
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.prepare.text_checks import TextCheckConfig
from maya.errors import MayaError
from tests.data.making import tone, write_corpus, write_manifest, write_tone

SILENCE = 0.25  # seconds between the words of `speech`


def band(samples: np.ndarray, rate: int, low: float, high: float) -> np.ndarray:
    """The samples with only the frequencies from low to high Hz."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / rate)
    spectrum[(hertz < low) | (hertz > high)] = 0
    return np.fft.irfft(spectrum, len(samples))


def speech(rate: int = 16000, words: int = 8, rms: float = 0.05, high: float = 7000.0) -> np.ndarray:
    """(N,) samples: words of 0.5 s of noise with RMS `rms`, each followed by 0.25 s of silence."""
    word = band(np.random.default_rng(1).standard_normal(rate // 2), rate, 100, high)
    word *= rms / np.sqrt(np.mean(word**2))
    return np.tile(np.concatenate([word, np.zeros(int(SILENCE * rate))]), words)


def noise(length: int, rms: float) -> np.ndarray:
    return rms * np.random.default_rng(2).standard_normal(length)


def usual() -> np.ndarray:
    """Speech at -26 dBFS with a signal-to-noise ratio of 30 dB."""
    clean = speech()
    return clean + noise(len(clean), 0.05 * 10 ** (-30 / 20))


def reasons(samples: np.ndarray, rate: int = 16000, **limits: float) -> list[str]:
    sound = measure_sound(samples.reshape(len(samples), -1).astype(np.float32), rate)
    findings = list(audio_findings(sound, AudioCheckConfig(**limits)))
    assert all(detail for _, detail in findings)
    return [reason for reason, _ in findings]


def test_usual_speech_has_no_findings() -> None:
    assert reasons(usual()) == []
    both = np.stack([usual(), 0.5 * usual()], axis=1)
    assert reasons(both) == [], "of two channels"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.clip(25 * usual(), -1, 1) * 0.9995, "clipped"),
        (0.05 * usual(), "too_quiet"),
        (0.8 * np.sign(usual()), "too_loud"),
        (usual() + noise(len(usual()), 0.025), "noisy"),
        (band(usual(), 16000, 0, 3400), "narrow_band"),
        (np.pad(usual(), (0, 40000)), "long_silence"),
        (np.pad(usual(), (40000, 0)), "long_silence"),
        (usual() + 0.05, "dc_offset"),
    ],
)
def test_each_reason_is_reported(wrong: np.ndarray, reason: str) -> None:
    assert reason in reasons(wrong) and reason in REASONS


def test_level_is_that_of_the_speech_alone() -> None:
    for words in (2, 8):
        samples = np.pad(speech(words=words, rms=0.05), (0, 32000))
        assert measure_sound(samples[:, None], 16000).level == pytest.approx(20 * np.log10(0.05), abs=0.5)
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert measure_sound(sine[:, None], 16000).level == pytest.approx(-9.03, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("snr", [5, 10, 20, 40])
def test_snr_error_is_below_two_decibels(snr: float, rate: int) -> None:
    clean = speech(rate, high=3500)
    noisy = clean + noise(len(clean), 0.05 * 10 ** (-snr / 20))
    assert measure_sound(noisy[:, None], rate).snr == pytest.approx(snr, abs=2)
    padded = np.pad(noisy, rate)  # digital silence, as codecs and editors add
    assert measure_sound(padded[:, None], rate).snr == pytest.approx(snr, abs=2)


def test_sound_that_never_changes_is_noise() -> None:
    for steady in (noise(16000, 0.1), *(tone(1.0, pitch=100.0 + 10 * step) for step in range(40))):
        sound = measure_sound(steady[:, None], 16000)
        assert sound.snr < 0 and sound.lead < 0.5


def test_clipped_share_counts_runs_only() -> None:
    samples = np.zeros((1000, 2))
    samples[100:110, 1], samples[200:203, 1] = 1.0, -1.0  # 13 samples that stay
    samples[300, 1], samples[400:402, 1], samples[500:503, 0] = 1.0, 1.0, 1.0
    assert measure_sound(samples.astype(np.float32), 16000).clipped == pytest.approx(0.013)
    touching = usual() / np.abs(usual()).max()
    assert measure_sound(touching[:, None].astype(np.float32), 16000).clipped == 0


def test_narrow_band_needs_a_higher_sample_rate() -> None:
    for rate in (16000, 22050, 44100, 48000):
        wide = speech(rate)
        narrow = band(wide, rate, 0, 3400)
        assert "narrow_band" in reasons(narrow, rate) and "narrow_band" not in reasons(wide, rate)
    assert measure_sound(speech(8000, high=3400)[:, None], 8000).high_band is None


def test_upsampled_8_khz_audio_is_narrow_band() -> None:
    """The filter is as short as torchaudio's: images of 3 to 4 kHz pass above 4 kHz."""
    tilted = np.cumsum(speech()) * 0.2  # 6 dB less per octave, as in speech
    once = resample(resample(torch.from_numpy(tilted).float(), 16000, 8000), 8000, 16000)
    assert "narrow_band" in reasons(once.numpy()) and "narrow_band" not in reasons(tilted)


def test_silence_at_the_ends_is_timed_in_noise_too() -> None:
    samples = np.pad(speech(), (16000, 32000))
    for loudness in (0.0, 0.001, 0.01):
        sound = measure_sound((samples + noise(len(samples), loudness))[:, None], 16000)
        assert (sound.lead, sound.trail) == pytest.approx((1.0, 2.0 + SILENCE), abs=0.04)


@pytest.mark.parametrize(
    "samples", [np.ones((1, 1)), np.full((400, 1), 0.5), np.full((9000, 3), 3e38), np.zeros((16000, 1))]
)
def test_odd_audio_has_finite_numbers(samples: np.ndarray) -> None:
    sound = measure_sound(samples.astype(np.float32), 16000)
    numbers = [getattr(sound, name) for name in sound.__slots__]
    assert all(np.isfinite(number) for number in numbers if number is not None)


def test_the_probe_measures_decoded_audio_only(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", channels=2)
    row = Row(id="a", language="en", text="one", audio="a.wav", where="m:1")
    ((decoded,), _), ((undecoded,), _) = (
        probe(tmp_path, [row], ProbeConfig(decode=decode)) for decode in (True, False)
    )
    assert decoded.sound is not None and decoded.sound.level == pytest.approx(-11.5, abs=0.1)
    assert undecoded.sound is None


def test_prepare_flags_and_drops(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    for row in rows:
        soundfile.write(tmp_path / "c" / row["audio"], usual()[: 16000 + 160 * len(row["id"])], 16000)
    soundfile.write(tmp_path / "c" / rows[3]["audio"], usual() + 0.05, 16000)
    rows[4]["text"] = "one 2"
    soundfile.write(tmp_path / "c" / rows[4]["audio"], np.clip(25 * usual(), -1, 1), 16000)
    write_manifest(tmp_path / "c", rows)
    texts = TextCheckConfig(drop=("digits",), compare_audio=False)
    cfg = PrepareConfig(text_checks=texts)
    report = prepare_corpus(tmp_path / "c", tmp_path / "out", languages=(), cfg=cfg)
    lines = (tmp_path / "out/flagged.jsonl").read_text(encoding="utf-8").splitlines()
    flagged = [(row["id"], row["reason"]) for row in map(json.loads, lines) if row["reason"] in REASONS]
    assert flagged == [("en-003", "dc_offset")], "utterances dropped for their text have no flags"
    assert report.flagged["dc_offset"] == {"en": 1} and "dc_offset: en 1" in report.table()
    assert report.dropped == {"digits": 1}

    cfg = PrepareConfig(audio_checks=AudioCheckConfig(drop=("dc_offset", "clipped")), text_checks=texts)
    report = prepare_corpus(tmp_path / "c", tmp_path / "out", languages=(), cfg=cfg)
    assert report.dropped == {"clipped": 1, "dc_offset": 1} and report.rows == 40
    cfg = PrepareConfig(audio_checks=AudioCheckConfig(drop=("loud",)))
    with pytest.raises(MayaError, match="audio_checks.drop has no reason 'loud'; expected some of clipped"):
        prepare_corpus(tmp_path / "c", tmp_path / "out", languages=(), cfg=cfg)
