"""The MLP: means over the frames that an utterance has, nothing beyond its context, lengths."""

import pytest
import torch

from maya.encoders import MLPConfig
from maya.errors import MayaError

CFG = MLPConfig(feat_in=8, d_model=16, n_layers=2, context=1)


@torch.no_grad()
def test_frames_are_of_means_and_depend_on_no_padding() -> None:
    torch.manual_seed(1)
    encoder = CFG.build().eval()
    x, lens = torch.randn(3, 23, 8), torch.tensor([23, 10, 0])
    frames, sizes = encoder(x, lens)
    assert sizes.tolist() == [6, 3, 0] == [CFG.subsampled(n) for n in lens.tolist()]
    alone, _ = encoder(x[1:2, :10], lens[1:2])
    assert (
        torch.allclose(frames[1, :3], alone[0], atol=1e-6) and not frames[1, 3:].any() and not frames[2].any()
    )
    # The last mean is of the two frames that the utterance has.
    even = x[1:2, :10].clone()
    even[:, 8:] = even[:, 8:].mean(1, keepdim=True)
    assert torch.allclose(encoder(even, lens[1:2]).frames, alone, atol=1e-6)


@torch.no_grad()
def test_it_sees_its_context_and_no_further() -> None:
    encoder = CFG.build().eval()
    x = torch.randn(1, 40, 8)
    changed = x.clone()
    changed[:, :4] += 1.0
    a, b = (encoder(own, torch.tensor([40])).frames for own in (x, changed))
    moved = (a - b).abs().amax(-1)[0] > 1e-6
    assert moved[:2].all() and not moved[2:].any()


def test_hidden_states() -> None:
    encoder = CFG.build().eval()
    encoded = encoder(torch.randn(1, 12, 8), torch.tensor([12]), hidden=(0, 2))
    assert set(encoded.hidden) == {0, 2} and torch.equal(encoded.hidden[2], encoded.frames)
    with pytest.raises(MayaError):
        encoder(torch.randn(1, 12, 8), torch.tensor([12]), hidden=(3,))
