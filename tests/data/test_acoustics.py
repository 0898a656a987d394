"""Made-up rooms, noises and equalisers against what their numbers say; draws of their own."""

import math

import numpy as np
import pytest
import torch

from maya.data.loading.acoustics import (
    EQUALIZER_HZ,
    MadeNoise,
    MadeRoom,
    equalize,
    made_noise,
    made_room,
    reverberate,
)
from maya.data.loading.augment import Augment, AugmentConfig
from tests.data.test_augment import IDS, everything, folder, speech  # noqa: F401  (a fixture)

MADE = {"made_room_prob": 0.3, "made_noise_prob": 0.4, "equalizer_prob": 0.5, "warp_prob": 0.6}


@pytest.mark.parametrize(("seconds", "direct_db"), [(0.2, 0.0), (0.5, 10.0)])
def test_a_room_decays_as_stated(seconds: float, direct_db: float) -> None:
    room = made_room(MadeRoom(seconds=seconds, direct_db=direct_db, seed=3), 16000).double()
    assert room[0] == 1 and room.abs().argmax() == 0, "the direct sound is first and loudest"
    energy = room[1:].square()
    assert -10 * math.log10(float(energy.sum())) == pytest.approx(direct_db, abs=0.5)
    # The level of the middle third against the first: 20 dB for a third of 60 dB.
    first, middle, _ = energy.split(math.ceil(len(energy) / 3))
    assert 10 * math.log10(float(first.mean() / middle.mean())) == pytest.approx(20, abs=1.5)
    audio = speech()
    assert float(reverberate(audio, room.float()).norm()) == pytest.approx(float(audio.norm()), rel=1e-3)


@pytest.mark.parametrize("slope_db", [0.0, -3.0, -6.0])
def test_the_noise_falls_by_its_slope(slope_db: float) -> None:
    noise = made_noise(MadeNoise(snr_db=0, slope_db=slope_db, seed=1), 160_000, 16000)
    power = np.abs(np.fft.rfft(noise.numpy())) ** 2
    hertz = np.fft.rfftfreq(160_000, 1 / 16000)
    levels = [10 * np.log10(power[(hertz > f) & (hertz < 1.1 * f)].mean()) for f in (500, 1000, 2000, 4000)]
    assert np.diff(levels) == pytest.approx([slope_db] * 3, abs=0.7)


def test_the_equaliser_has_its_gains() -> None:
    gains = (6.0, -6.0, 3.0, 0.0, -9.0, 9.0)
    time = torch.arange(32000) / 16000
    tones = [torch.sin(2 * math.pi * hertz * time) for hertz in EQUALIZER_HZ]
    shaped = equalize(sum(tones[1:], tones[0]), gains, 16000)[4000:-4000]
    levels = [float((shaped * t[4000:-4000]).mean()) for t in tones]
    measured = [20 * math.log10(level / levels[3]) for level in levels]
    assert measured == pytest.approx([g - gains[3] for g in gains], abs=0.3)


def test_made_up_changes_have_draws_of_their_own(folder) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    """Switching them on leaves what the older options draw as it was, and each leaves the others."""
    before = [Augment(everything(folder), 16000).changes(i, 2) for i in IDS[:200]]
    cfg = everything(folder)
    for name, value in MADE.items():
        setattr(cfg, name, value)
    after = [Augment(cfg, 16000).changes(i, 2) for i in IDS[:200]]
    for name in ("room", "noise", "band_limit_hz", "codec", "volume"):
        assert [getattr(c, name) for c in before] == [getattr(c, name) for c in after]
    alone = Augment(AugmentConfig(clean_share=cfg.clean_share, warp_prob=0.6), 16000)
    assert [alone.changes(i, 2).warp for i in IDS[:200]] == [c.warp for c in after]


def test_warps_are_a_function_of_seed_epoch_and_id() -> None:
    cfg = AugmentConfig(clean_share=0.2, warp_prob=0.5, warp=(0.8, 1.25), warp_spread=0.1)
    augment = Augment(cfg, 16000)
    warps = augment.warps(IDS, 4)
    assert warps is not None and warps.shape == (len(IDS), 3) and warps.dtype == torch.float32
    again = Augment(cfg, 16000).warps(IDS[::-1], 4)
    assert again is not None and torch.equal(again.flip(0), warps)
    other = augment.warps(IDS, 5)
    assert other is not None and not torch.equal(other, warps)
    moved = (warps != 1).any(1)
    assert float(moved.float().mean()) == pytest.approx(0.8 * 0.5, abs=0.04)
    assert warps.min() >= 0.8 * 0.9 - 1e-6 and warps.max() <= 1.25 * 1.1 + 1e-6
    assert float(warps[moved].log().mean()) == pytest.approx(0.0, abs=0.02)
    assert Augment(AugmentConfig(volume_prob=1.0), 16000).warps(IDS, 4) is None


def test_shares_count_them() -> None:
    cfg = AugmentConfig(clean_share=0.0, **MADE)  # type: ignore[arg-type]
    shares = Augment(cfg, 16000).shares(IDS, 0)
    for name, option in {"made_room": 0.3, "made_noise": 0.4, "equalizer": 0.5, "warp": 0.6}.items():
        assert shares[name] == pytest.approx(option, abs=0.04)


def test_changed_audio_keeps_length_and_repeats() -> None:
    augment = Augment(AugmentConfig(clean_share=0.0, **MADE), 16000)  # type: ignore[arg-type]
    for i, seconds in enumerate([0.02, 0.3, 1.7] * 5):
        audio = speech(seconds)
        changed = augment(audio, IDS[i], 1)
        assert changed.shape == audio.shape and changed.dtype == torch.float32 and changed.isfinite().all()
        assert torch.equal(changed, augment(audio, IDS[i], 1))
