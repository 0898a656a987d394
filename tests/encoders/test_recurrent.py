"""The recurrent encoder: padding and the division of a stream change nothing."""

import pytest
import torch

from maya.encoders import RecurrentConfig
from maya.errors import MayaError


@pytest.fixture
def encoder():
    return RecurrentConfig(feat_in=8, d_model=16, n_layers=2, subsampling_factor=2).build().eval()


def test_a_row_alone_equals_the_row_in_a_batch(encoder) -> None:
    x, lens = torch.randn(3, 21, 8), torch.tensor([21, 8, 0])
    together = encoder(x, lens, hidden=(0, 2))
    assert together.lens.tolist() == [11, 4, 0]
    for row, size in enumerate(lens.tolist()):
        alone = encoder(x[row : row + 1, :size], lens[row : row + 1])
        count = int(together.lens[row])
        assert torch.allclose(together.frames[row, :count], alone.frames[0, :count], atol=1e-6)
        assert not together.frames[row, count:].any() and not together.hidden[2][row, count:].any()


def test_stream_equals_the_whole(encoder) -> None:
    x = torch.randn(2, 21, 8)
    whole = encoder(x, torch.tensor([21, 21])).frames
    stream, parts, place = encoder.stream(2), [], 0
    for size in (1, 0, 4, 3, 13):
        parts.append(stream.push(x[:, place : place + size]).frames)
        place += size
    parts.append(stream.push(x[:, :0], final=True).frames)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)
    with pytest.raises(MayaError, match="leave the context out"):
        encoder.stream(1, (4, 0))


def test_frames_do_not_see_the_future(encoder) -> None:
    x = torch.randn(1, 20, 8)
    changed = x.clone()
    changed[:, 10:] += 1
    lens = torch.tensor([20])
    assert torch.equal(encoder(x, lens).frames[:, :5], encoder(changed, lens).frames[:, :5])
