import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from maya.audio.codecs import CODECS, through_codec
from maya.config import from_dict, override, to_dict
from maya.data.loading.augment import (
    Augment,
    AugmentConfig,
    Changes,
    NoiseConfig,
    add_noise,
    band_limit,
    reverberate,
)
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from tests.data.making import write_tar, write_tone

IDS = [f"utt-{i}" for i in range(3000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with noises of several lengths, rates and formats, room responses, and a tar of noises."""
    top = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(0)
    for i, (suffix, rate, seconds) in enumerate(
        [("wav", 16000, 20.0), ("flac", 44100, 3.0), ("wav", 8000, 0.4), ("ogg", 16000, 5.0)]
    ):
        (top / "noise" / "deep").mkdir(parents=True, exist_ok=True)
        samples = 0.1 * (i + 1) * rng.standard_normal(round(seconds * rate))
        soundfile.write(top / "noise" / "deep" / f"{i}.{suffix}", samples, rate)
    members = {path.name: path.read_bytes() for path in sorted((top / "noise" / "deep").iterdir())}
    write_tar(top / "noise.tar", members | {"README": b"none"})
    (top / "rooms").mkdir()
    for i in range(3):
        response = rng.standard_normal(8000) * np.exp(-np.arange(8000) / 800.0) * 0.1
        response[:200] = 0
        response[200] = 1.0
        soundfile.write(top / "rooms" / f"{i}.wav", response, 16000)
    return top


def speech(seconds: float = 1.5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = round(seconds * 16000)
    return torch.randn(n, generator=generator) * 0.1 * (1 + torch.sin(torch.arange(n) / 800))


def everything(folder: Path) -> AugmentConfig:
    return AugmentConfig(
        clean_share=0.3,
        noise=NoiseConfig(folders=(str(folder / "noise"),), prob=0.4, snr_db=(0.0, 15.0)),
        music=NoiseConfig(folders=(str(folder / "noise.tar"),), prob=0.2, snr_db=(5.0, 15.0)),
        babble=NoiseConfig(folders=(str(folder / "noise"),), prob=0.2, snr_db=(13.0, 20.0), mixed=(3, 7)),
        rooms=(str(folder / "rooms"),),
        room_prob=0.5, band_limit_prob=0.3, codec_prob=0.3, volume_prob=0.5,
    )  # fmt: skip


def test_augmentation_is_off_by_default(folder: Path) -> None:
    assert not AugmentConfig().on
    experiment = Experiment(name="x")
    assert not experiment.data.augment.on
    override(experiment, "data.augment.noise.prob=0.5")
    override(experiment, f"data.augment.noise.folders={folder / 'noise'}")
    override(experiment, "data.augment.noise.snr_db=5,20")
    assert experiment.data.augment.on and experiment.data.augment.noise.snr_db == (5.0, 20.0)
    again = from_dict(Experiment, to_dict(experiment))
    assert again.data.augment == experiment.data.augment
    Augment(again.data.augment, 16000)


def test_changes_depend_on_seed_epoch_and_id_alone(folder: Path) -> None:
    cfg = everything(folder)
    augment, again = Augment(cfg, 16000), Augment(cfg, 16000)
    forwards = [augment.changes(i, 3) for i in IDS[:200]]
    assert forwards == [again.changes(i, 3) for i in reversed(IDS[:200])][::-1]
    assert forwards != [augment.changes(i, 4) for i in IDS[:200]]
    cfg.seed = 1
    assert forwards != [Augment(cfg, 16000).changes(i, 3) for i in IDS[:200]]
    for i in IDS[:20]:
        audio = speech()
        assert torch.equal(augment(audio, i, 3), again(audio, i, 3))


def test_another_process_makes_the_same_audio(folder: Path, tmp_path: Path) -> None:
    cfg = everything(folder)
    cfg.clean_share = 0.0
    code = (
        "import sys, json, torch; from pathlib import Path;"
        "from tests.data.test_augment import everything, speech;"
        "from maya.data.loading.augment import Augment;"
        "cfg = everything(Path(sys.argv[1])); cfg.clean_share = 0.0; augment = Augment(cfg, 16000);"
        "torch.save([augment(speech(), f'utt-{i}', 7) for i in range(12)], sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "a.pt")], check=True)
    augment = Augment(cfg, 16000)
    for i, other_audio in enumerate(torch.load(tmp_path / "a.pt")):
        assert torch.equal(augment(speech(), f"utt-{i}", 7), other_audio)


def test_shares_match_the_configuration(folder: Path) -> None:
    augment = Augment(everything(folder), 16000)
    shares = augment.shares(IDS, 2)
    expected = {
        "clean": 0.3, "noise": 0.28, "music": 0.14, "babble": 0.14, "room": 0.35, "band_limit": 0.21,
        "codec": 0.21, "volume": 0.35,
    }  # fmt: skip
    # An utterance that is not kept clean may still get no change by chance; it counts as clean too.
    nothing = 0.7 * 0.2 * 0.5 * 0.7 * 0.7 * 0.5
    expected["clean"] += nothing
    assert shares == pytest.approx(expected, abs=3 * math.sqrt(0.25 / len(IDS)))
    kinds = Counter(n.kind for i in IDS if (n := augment.changes(i, 2).noise))
    used = {
        r for i in IDS if (n := augment.changes(i, 2).noise) and n.kind == "noise" for r, _ in n.recordings
    }
    assert set(kinds) == {"noise", "music", "babble"} and used == {0, 1, 2, 3}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 1.0])
def test_the_clean_share_does_not_depend_on_the_probabilities(folder: Path, share: float) -> None:
    cfg = AugmentConfig(clean_share=share, volume_prob=1.0, codec_prob=1.0, band_limit_prob=1.0)
    augment, epochs = Augment(cfg, 16000), 40
    clean = np.array([[augment.changes(i, e) == Changes() for e in range(epochs)] for i in IDS[:300]])
    # Each utterance is within two epochs of the share; independent draws would be up to nine off.
    assert np.abs(clean.sum(axis=1) - share * epochs).max() <= 2 + 1e-9
    assert clean.mean() == pytest.approx(share, abs=0.01)
    by_epoch = [augment.shares(IDS, e)["clean"] for e in range(5)]
    assert by_epoch == pytest.approx([share] * 5, abs=4 * math.sqrt(0.25 / len(IDS)))


def test_clean_utterances_are_untouched(folder: Path) -> None:
    cfg = everything(folder)
    cfg.clean_share = 1.0
    audio = speech()
    assert Augment(cfg, 16000)(audio, "a", 0) is audio


def test_other_augmentations_do_not_change_volume_draws(folder: Path) -> None:
    cfg = AugmentConfig(clean_share=0.3, volume_prob=0.5)
    before = [Augment(cfg, 16000).changes(i, 0).volume for i in IDS[:100]]
    assert [Augment(everything(folder), 16000).changes(i, 0).volume for i in IDS[:100]] == before


def test_every_augmentation_keeps_the_length(folder: Path) -> None:
    cfg = everything(folder)
    cfg.clean_share = 0.0
    augment = Augment(cfg, 16000)
    for i, seconds in enumerate([0.05, 0.3, 1.0, 3.3] * 6):
        audio = speech(seconds)
        changed = augment(audio, IDS[i], 0)
        assert changed.shape == audio.shape and changed.dtype == torch.float32 and changed.isfinite().all()
    silent = torch.zeros(1600)
    assert all(torch.equal(augment(silent, i, 0), silent) for i in IDS[:20])


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 25.0])
def test_noise_has_the_requested_snr(snr_db: float) -> None:
    audio, noise = speech(seed=0), speech(seed=1) * 7
    added = add_noise(audio, noise, snr_db) - audio
    measured = 10 * math.log10(float(audio.square().mean() / added.square().mean()))
    assert measured == pytest.approx(snr_db, abs=1e-3)
    assert torch.equal(add_noise(audio, torch.zeros_like(audio), snr_db), audio)


def test_drawn_noise_has_its_snr(folder: Path) -> None:
    """Noises are read from files: short ones are repeated, others are resampled, and several are mixed."""
    cfg = everything(folder)
    cfg.clean_share = cfg.room_prob = cfg.band_limit_prob = cfg.codec_prob = cfg.volume_prob = 0.0
    augment, audio = Augment(cfg, 16000), speech(2.0)
    for i in IDS[:60]:
        changes = augment.changes(i, 0)
        if changes.noise is None:
            continue
        added = augment(audio, i, 0) - audio
        measured = 10 * math.log10(float(audio.square().mean() / added.square().mean()))
        assert measured == pytest.approx(changes.noise.snr_db, abs=0.01)
        assert min(float(part.square().mean()) for part in added.split(4000)) > 0, "no gaps"


def test_reverberation_keeps_time_and_level(folder: Path) -> None:
    room = torch.zeros(3000)
    room[700], room[1500] = -0.5, 0.1  # the direct sound is late, inverted and soft
    audio = speech()
    reverberant = reverberate(audio, room)
    assert float(reverberant.square().mean()) == pytest.approx(float(audio.square().mean()), rel=1e-4)
    expected = -0.5 * audio
    expected[800:] += 0.1 * audio[:-800]
    scale = float(reverberant.norm() / expected.norm())
    torch.testing.assert_close(reverberant, expected * scale, atol=1e-5, rtol=0)


def test_band_limits_cut_off() -> None:
    audio = speech(2.0)
    limited = band_limit(audio, 3000, 16000)
    spectrum = torch.fft.rfft(limited).abs() / torch.fft.rfft(audio).abs().clamp(min=1e-3)
    hertz = torch.fft.rfftfreq(len(audio), 1 / 16000)
    assert float(spectrum[hertz > 3400].median()) < 0.02
    assert float(spectrum[(hertz > 100) & (hertz < 2500)].median()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0])
def test_codecs_keep_time_and_level(name: str, quality: float) -> None:
    time = torch.arange(24000) / 16000
    audio = torch.sin(2 * math.pi * (300 + 200 * time) * time) * torch.sin(2 * math.pi * 3 * time) * 0.4
    coded = through_codec(audio, name, quality, sample_rate=16000)
    assert coded.shape == audio.shape
    n = 1 << 16
    shifts = torch.fft.irfft(torch.fft.rfft(coded, n) * torch.fft.rfft(audio, n).conj(), n)
    lag = int(shifts.argmax())
    assert min(lag, n - lag) <= 8, "half a millisecond"
    assert float(coded.norm() / audio.norm()) == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(coded, audio)
    assert torch.equal(through_codec(audio, name, quality, sample_rate=16000), coded), "deterministic"
    loud = through_codec(audio * 10, name, quality, sample_rate=16000)
    assert float(loud.abs().max()) > 3, "nothing is cut off at full scale"


def test_recordings_are_sorted(folder: Path, tmp_path: Path) -> None:
    """Draws do not depend on the order in which a file system lists a folder."""
    for name in ("c.wav", "a.wav", "b/x.wav"):
        write_tone(tmp_path / name, 0.2)
    cfg = AugmentConfig(noise=NoiseConfig(folders=(str(tmp_path),), prob=1.0))
    paths = [Path(r.path).relative_to(tmp_path).as_posix() for r in Augment(cfg, 16000)._noises["noise"]]
    assert paths == ["a.wav", "b/x.wav", "c.wav"]


@pytest.mark.parametrize(
    ("override_", "message"),
    [
        ("clean_share=1.5", "clean_share must be from 0 to 1"),
        ("volume_prob=-0.1", "volume_prob must be from 0 to 1"),
        ("noise.prob=0.5", "augment.noise has a probability and no folder"),
        ("room_prob=0.5", "augment.rooms has a probability and no folder"),
        ("volume=0,1", "volume must be above 0, not 0"),
        ("codecs=mp3,amr", "'amr' is none of mulaw"),
        ("band_limit_hz=4000,499", "band_limit_hz must be"),
        ("noise.snr_db=20,10", "noise.snr_db must be a range from low to high"),
        ("babble.mixed=0,2", "babble.mixed must be 1 or more, not 0"),
        ("volume=2,1", "volume must be a range from low to high"),
    ],
)
def test_bad_options_are_refused(override_: str, message: str) -> None:
    experiment = Experiment(name="x")
    with pytest.raises(MayaError, match=message):
        override(experiment, "data.augment." + override_)
        Augment(experiment.data.augment, 16000)


def test_missing_and_broken_recordings_are_named(tmp_path: Path) -> None:
    cfg = AugmentConfig(clean_share=0, noise=NoiseConfig(folders=(str(tmp_path / "none"),), prob=1.0))
    with pytest.raises(
        MayaError, match=r"augment\.noise: .*none is not a folder or tar file that contains audio"
    ):
        Augment(cfg, 16000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF....")
    cfg.noise.folders = (str(tmp_path),)
    with pytest.raises(MayaError, match=r"cannot decode .*bad\.wav"):
        Augment(cfg, 16000)(speech(), "a", 0)
    cfg.noise.prob, cfg.room_prob, cfg.rooms = 0.0, 1.0, (str(tmp_path),)
    soundfile.write(tmp_path / "bad.wav", np.zeros(100), 16000)
    with pytest.raises(MayaError, match=r"impulse response .*bad\.wav is silent"):
        Augment(cfg, 16000)(speech(), "a", 0)


def test_a_damaged_tar_of_noises_is_refused(folder: Path, tmp_path: Path) -> None:
    """With fewer recordings all utterances would get other noises than before."""
    data = (folder / "noise.tar").read_bytes()
    (tmp_path / "noise.tar").write_bytes(data[: len(data) // 2])
    cfg = AugmentConfig(noise=NoiseConfig(folders=(str(tmp_path / "noise.tar"),), prob=0.5))
    with pytest.raises(MayaError, match=r"noise\.tar is truncated"):
        Augment(cfg, 16000)
