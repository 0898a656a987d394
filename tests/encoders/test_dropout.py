"""The fast dropout has the distribution of torch's dropout."""

import pytest
import torch

from maya.encoders.conformer.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_dropout_share_mean_and_gradient(p):
    x = torch.full((400, 501), 2.0, requires_grad=True)
    y = dropout(x, p, True)
    n = x.numel()
    assert abs((y == 0).float().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1e-5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 2 / (1 - p)), rtol=1e-4, atol=0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 2)


def test_neighbours_are_independent():
    """Four draws come from one 64-bit integer. They must be independent."""
    kept = (dropout(torch.ones(400_000), 0.5, True) != 0).float() - 0.5
    for lag in (1, 2, 3, 4, 8, 64):
        assert abs((kept[:-lag] * kept[lag:]).mean()) < 0.25 * 5 / 400_000**0.5
    by_lane = kept.view(-1, 4).mean(0)
    assert by_lane.abs().max() < 0.5 * 5 / 100_000**0.5


def test_probability_0_and_1_seed_and_empty_input():
    x = torch.ones(7, 3)
    assert dropout(x, 0.0, True) is x and dropout(x, 0.3, False) is x
    assert not dropout(x, 1.0, True).any()
    assert Dropout(0.3).eval()(x) is x
    assert dropout(torch.ones(0, 3), 0.3, True).shape == (0, 3)
    torch.manual_seed(5)
    first = dropout(x, 0.5, True)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x, 0.5, True))
    assert dropout(x.bfloat16(), 0.5, True).dtype == torch.bfloat16
