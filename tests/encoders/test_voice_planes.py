"""ResNet34 and CAM++: sizes, padding, gradients, hidden states. tests/interop/check_speechbrain.py compares
them with wespeaker's classes."""

from typing import Any

import pytest
import torch

from maya.encoders import CamConfig, Encoder, EncoderConfig, ResNetConfig
from maya.errors import MayaError

SMALL: dict[str, Any] = {
    "resnet": ResNetConfig(feat_in=16, channels=4, stages=(2, 1, 2)),
    "campplus": CamConfig(
        feat_in=16, front_channels=4, channels=8, layers=(2, 3), dilations=(1, 2), growth=4, segment=5
    ),
}
LENS = torch.tensor([43, 24, 7, 3, 1, 0])


def encoder_of(name: str) -> Encoder:
    torch.manual_seed(0)
    encoder = SMALL[name].build()
    for module in encoder.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return encoder.double().eval()


@pytest.mark.parametrize(("cfg", "count"), [(ResNetConfig(), 5_323_360), (CamConfig(), 6_651_936)])
def test_published_sizes(cfg: EncoderConfig, count: int) -> None:
    """Without the layers behind the pooling, which make 6.63 and 7.18 M of it."""
    with torch.device("meta"):
        assert sum(p.numel() for p in cfg.build().parameters()) == count


@pytest.mark.parametrize("name", SMALL)
def test_padded_equals_alone(name: str) -> None:
    encoder = encoder_of(name)
    x = torch.randn(len(LENS), 50, 16, dtype=torch.float64)  # what lies beyond the ends is not zero
    layers = range(len(encoder.cfg.hidden_dims))
    out = encoder(x, LENS, hidden=layers)
    assert torch.equal(out.lens, encoder.subsampled_lens(LENS))
    assert out.frames.shape[-1] == encoder.cfg.d_model
    assert [out.hidden[n].shape[-1] for n in layers] == list(encoder.cfg.hidden_dims)
    for row, size in enumerate(LENS.tolist()):
        alone = encoder(x[row : row + 1, : max(size, 1)], LENS[row : row + 1], hidden=layers)
        end = int(out.lens[row])
        for both, single in [(out.frames, alone.frames), *((out.hidden[n], alone.hidden[n]) for n in layers)]:
            torch.testing.assert_close(both[row, :end], single[0, :end], rtol=0, atol=1e-10)
            assert not both[row, end:].any()


@pytest.mark.parametrize("name", SMALL)
def test_training_statistics_and_gradients_leave_padding_out(name: str) -> None:
    first, second = encoder_of(name).train(), encoder_of(name).train()
    x, lens = torch.randn(2, 20, 16, dtype=torch.float64), torch.tensor([20, 11])
    longer = torch.cat([x, torch.randn(2, 9, 16, dtype=torch.float64)], 1)
    sums = [net(feats, lens).frames.square().sum() for net, feats in ((first, x), (second, longer))]
    torch.testing.assert_close(sums[0], sums[1])
    for total in sums:
        total.backward()
    for single, other in zip(first.parameters(), second.parameters(), strict=True):
        assert single.grad is not None
        torch.testing.assert_close(single.grad, other.grad)
    torch.testing.assert_close(first.state_dict(), second.state_dict())


def test_bad_options_are_refused() -> None:
    x, lens = torch.randn(1, 30, 16, dtype=torch.float64), torch.tensor([30])
    with pytest.raises(MayaError, match="no hidden states"):
        encoder_of("resnet")(x, lens, hidden=[0])
    with pytest.raises(MayaError, match="no hidden layer 3"):
        encoder_of("campplus")(x, lens, hidden=[3])
    with pytest.raises(MayaError, match="2 dense blocks have 3 dilations"):
        CamConfig(layers=(1, 2)).build()
