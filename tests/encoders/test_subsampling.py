"""Subsampling: lengths, padding, and computation in parts."""

import pytest
import torch

import maya.encoders.conformer.subsampling as subsampling
from maya.encoders.conformer.subsampling import DepthwiseStridedSubsampling, subsampled_lens
from maya.errors import MayaError


def plain(module, x, lens):
    """Reference: a product with the mask before every layer, as in NeMo."""
    x = x[:, None]
    for layer in module.conv:
        x = x * (torch.arange(x.shape[2]) < lens[:, None])[:, None, :, None]
        x = layer(x)
        if getattr(layer, "stride", (1, 1))[0] == 2:
            lens = torch.div(lens + 2 - 3, 2, rounding_mode="floor") + 1
    return module.out(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)), lens


@pytest.mark.parametrize("factor", [4, 8])
def test_lengths_equal_the_convolutions(factor):
    module = DepthwiseStridedSubsampling(80, 16, factor, 4)
    every = torch.arange(0, 66)
    assert torch.equal(subsampled_lens(every, factor), -(-every // factor))  # ceilings compose
    for frames in range(1, 66):
        y, lens = module(torch.randn(1, frames, 80), torch.tensor([frames]))
        assert y.shape[1] == int(lens) == subsampled_lens(frames, factor)


@pytest.mark.parametrize("kind", ["dw_striding", "striding"])
@pytest.mark.parametrize(("factor", "bins"), [(4, 80), (8, 80), (8, 128), (8, 23)])
def test_equals_masking_before_every_layer(factor, bins, kind):
    module = DepthwiseStridedSubsampling(bins, 24, factor, 8, kind=kind).double()
    lens = torch.tensor([67, 66, 33, 9, 1, 0])
    x = torch.randn(6, 67, bins, dtype=torch.float64)
    grads = []
    for run in (module, lambda *a: plain(module, *a)):
        module.zero_grad()
        y, out_lens = run(x, lens)
        valid = (torch.arange(y.shape[1]) < out_lens[:, None])[..., None]
        (y.sin() * valid).sum().backward()
        grads.append((y * valid, out_lens, [p.grad.clone() for p in module.parameters()]))
    torch.testing.assert_close(grads[0], grads[1])


def test_input_gradient_is_zero_beyond_the_length():
    module = DepthwiseStridedSubsampling(20, 8, 8, 4).double()
    x = torch.randn(2, 24, 20, dtype=torch.float64, requires_grad=True)
    lens = torch.tensor([24, 13])

    def valid_part(x):
        y, n = module(x, lens)
        return y * (torch.arange(y.shape[1]) < n[:, None])[..., None]

    assert torch.autograd.gradcheck(valid_part, (x,))
    (grad,) = torch.autograd.grad(valid_part(x).square().sum(), x)
    assert not grad[1, 13:].any() and grad[1, :13].any()


@pytest.mark.parametrize("kind", ["dw_striding", "striding"])
def test_row_alone_equals_row_in_batch(kind):
    module = DepthwiseStridedSubsampling(80, 32, 8, 16, kind=kind)
    lens = torch.tensor([203, 202, 101, 57, 8])
    x = torch.randn(5, 203, 80) + 3
    y, out_lens = module(x, lens)
    for row, n in enumerate(lens.tolist()):
        alone, _ = module(x[row : row + 1, :n], lens[row : row + 1])
        torch.testing.assert_close(alone[0], y[row, : int(out_lens[row])], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["dw_striding", "striding"])
@pytest.mark.parametrize("factor", [4, 8])
def test_splitting_rows_and_frames_changes_nothing(monkeypatch, causal, factor, kind):
    """Compares batches, single utterances, and pieces of 1, 3 and 7 frames."""
    module = DepthwiseStridedSubsampling(20, 8, factor, 4, causal, kind).double()
    lens = torch.tensor([90, 83, 64, 9, 1, 0])
    x = torch.randn(6, 90, 20, dtype=torch.float64)
    width = 4 * (11 if causal else 10)  # elements of a frame after the first convolution
    results = []
    for limit in (10**9, 2 * 50 * width, 60 * width, 1, *(n * factor * width // 2 for n in (5, 9))):
        monkeypatch.setattr(subsampling, "MAX_PART_ELEMENTS_CPU", limit)
        module.zero_grad()
        y, out_lens = module(x, lens)
        valid = (torch.arange(y.shape[1]) < out_lens[:, None])[..., None]
        (y.sin() * valid).sum().backward()
        results.append((y * valid, out_lens, [p.grad.clone() for p in module.parameters()]))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_padded_batch_in_pieces_equals_the_whole(monkeypatch):
    """If the host does not know the lengths, pieces of all rows are masked."""
    for causal in (False, True):
        module = DepthwiseStridedSubsampling(20, 8, 8, 4, causal)
        x, lens = torch.randn(3, 200, 20), torch.tensor([200, 131, 16])
        whole, out_lens = module(x, lens)
        valid = (torch.arange(whole.shape[1]) < out_lens[:, None])[..., None]
        torch.testing.assert_close(module._stretches(x, lens, 5) * valid, whole * valid)


def test_causal_frames_ignore_later_frames():
    """Frame s reads feature frames up to 8 * s. Lengths are NeMo's floor(n / 2) + 1, applied three times."""
    module = DepthwiseStridedSubsampling(80, 16, 8, 4, causal=True).eval()
    x = torch.randn(1, 65, 80)
    y, lens = module(x, torch.tensor([65]))
    assert module.out.in_features == 4 * 11 and lens.tolist() == [9]
    for s in range(9):
        changed = x.clone()
        changed[:, 8 * s + 1 :] = 5.0
        later, _ = module(changed, torch.tensor([65]))
        torch.testing.assert_close(later[:, : s + 1], y[:, : s + 1], rtol=0, atol=0)
        assert s == 8 or not torch.equal(later[:, s + 1], y[:, s + 1])
    for n in range(1, 50):
        expected = ((n // 2 + 1) // 2 + 1) // 2 + 1
        got, got_lens = module(x[:, :n], torch.tensor([n]))
        assert got.shape[1] == int(got_lens) == expected


def test_unknown_factor_is_refused():
    with pytest.raises(MayaError, match="subsampling_factor=6"):
        DepthwiseStridedSubsampling(80, 32, 6, 16)
