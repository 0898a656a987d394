import pytest
import torch

from maya.errors import MayaError
from maya.features.noise import AddNoise, WhiteNoiseConfig


def test_signal_to_noise_ratio_and_silent_padding() -> None:
    lens = torch.tensor([16000, 4000])
    audio = torch.randn(2, 16000) * torch.tensor([[0.3], [0.001]]) * (torch.arange(16000) < lens[:, None])
    noisy = AddNoise(WhiteNoiseConfig(probability=1.0, snr_db=(20.0, 20.0))).train()(audio, lens)
    assert (noisy[1, 4000:] == 0).all()
    for row, n in enumerate(lens.tolist()):
        noise = (noisy - audio)[row, :n]
        snr = 10 * torch.log10(audio[row, :n].square().mean() / noise.square().mean())
        assert abs(float(snr) - 20.0) < 0.5


def test_probability_and_no_noise_in_evaluation() -> None:
    audio, lens = torch.ones(2000, 8), torch.full((2000,), 8)
    module = AddNoise(WhiteNoiseConfig(probability=0.3))
    changed = (module.train()(audio, lens) != audio).any(1).float().mean()
    assert abs(float(changed) - 0.3) < 0.05
    assert module.eval()(audio, lens) is audio
    silent = AddNoise(WhiteNoiseConfig(probability=1.0)).train()(torch.zeros(3, 8), torch.tensor([8, 0, 4]))
    assert (silent == 0).all()


@pytest.mark.parametrize("options", [{"probability": 1.5}, {"snr_db": (30.0, 10.0)}])
def test_invalid_options_are_refused(options: dict) -> None:
    with pytest.raises(MayaError, match="probability must be from 0 to 1|snr_db must be a range"):
        AddNoise(WhiteNoiseConfig(**options))
