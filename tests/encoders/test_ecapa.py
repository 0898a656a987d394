"""ECAPA-TDNN: padding, options, hidden states, gradients. tests/interop/check_speechbrain.py compares it with
the published classes."""

from typing import Any

import pytest
import torch

from maya.encoders import EcapaConfig, EcapaEncoder
from maya.encoders.ecapa.config import wespeaker
from maya.errors import MayaError
from maya.features import VoiceFbankConfig

SMALL: dict[str, Any] = {"feat_in": 8, "channels": 16, "d_model": 12, "scale": 4, "se_channels": 4}
VARIANTS = {
    "speechbrain": EcapaConfig(**SMALL),
    "wespeaker": EcapaConfig(**SMALL, untouched="last", padding="zeros", mfa_norm=False),
    "plain": EcapaConfig(**SMALL | {"scale": 1}, dilations=(1, 2), subtract_mean=False),
}
LENS = torch.tensor([40, 23, 7, 3, 1, 0])


def encoder_of(name: str) -> EcapaEncoder:
    torch.manual_seed(0)
    encoder = VARIANTS[name].build()
    for module in encoder.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return encoder.double().eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_padded_equals_alone(name: str) -> None:
    encoder = encoder_of(name)
    x = torch.randn(len(LENS), 45, 8, dtype=torch.float64)  # what lies beyond the ends is not zero
    layers = range(len(encoder.layers) + 1)
    out = encoder(x, LENS, hidden=layers)
    assert torch.equal(out.lens, LENS)
    assert [out.hidden[n].shape[-1] for n in layers] == list(encoder.cfg.hidden_dims)
    for row, size in enumerate(LENS.tolist()):
        alone = encoder(x[row : row + 1, : max(size, 1)], LENS[row : row + 1], hidden=layers)
        for both, single in [(out.frames, alone.frames), *((out.hidden[n], alone.hidden[n]) for n in layers)]:
            torch.testing.assert_close(both[row, :size], single[0, :size], rtol=0, atol=1e-10)
            assert not both[row, size:].any()


@pytest.mark.parametrize("name", VARIANTS)
def test_training_statistics_and_gradients_leave_padding_out(name: str) -> None:
    first, second = encoder_of(name).train(), encoder_of(name).train()
    x, lens = torch.randn(2, 20, 8, dtype=torch.float64), torch.tensor([20, 11])
    longer = torch.cat([x, torch.randn(2, 9, 8, dtype=torch.float64)], 1)
    sums = [net(feats, lens).frames.square().sum() for net, feats in ((first, x), (second, longer))]
    torch.testing.assert_close(sums[0], sums[1])
    for total in sums:
        total.backward()
    for single, other in zip(first.parameters(), second.parameters(), strict=True):
        assert single.grad is not None
        torch.testing.assert_close(single.grad, other.grad)
    torch.testing.assert_close(first.state_dict(), second.state_dict())


def test_options_change_the_frames_and_bad_ones_are_refused() -> None:
    x, lens = torch.randn(1, 30, 8, dtype=torch.float64), torch.tensor([30])
    frames = {name: encoder_of(name)(x, lens).frames for name in ("speechbrain", "wespeaker")}
    assert (frames["speechbrain"] - frames["wespeaker"]).abs().max() > 0.1
    with pytest.raises(MayaError, match="cannot be cut into 8 chunks"):
        EcapaConfig(channels=20).build()
    with pytest.raises(MayaError, match="no hidden layer 4"):
        encoder_of("speechbrain")(x, lens, hidden=[4])
    assert wespeaker(256).d_model == 1536


@pytest.mark.parametrize("style", ["speechbrain", "wespeaker"])
def test_features_of_a_padded_row_equal_those_alone(style: Any) -> None:
    features = VoiceFbankConfig(style=style).build()
    lens = torch.tensor([8000, 4321, 399, 0])
    audio = 0.1 * torch.randn(4, 8000) * (torch.arange(8000) < lens[:, None])
    feats, feat_lens = features(audio, lens)
    assert feat_lens.tolist() == ([51, 28, 3, 0] if style == "speechbrain" else [48, 25, 0, 0])
    for row, size in enumerate(lens.tolist()):
        single, _ = features(audio[row : row + 1, :size], lens[row : row + 1])
        torch.testing.assert_close(
            feats[row, : feat_lens[row]], single[0, : feat_lens[row]], rtol=0, atol=1e-4
        )
        assert not feats[row, feat_lens[row] :].any()
    with pytest.raises(MayaError, match="16000 Hz"):
        VoiceFbankConfig(sample_rate=8000).build()
