"""Linear layers through oneDNN equal torch's, and stay out of the way of gradients and other dtypes."""

from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maya.kernels import onednn

needs = pytest.mark.skipif(not onednn.available(), reason="this torch has no oneDNN")


class Counting:
    """Counts the products that go through oneDNN."""

    def __init__(self):
        self.calls, self.rows, self.op = 0, set(), torch.ops.mkldnn._linear_pointwise

    def __call__(self, *args):
        self.calls += 1
        self.rows.add(len(args[0]))
        return self.op(*args)


@needs
@pytest.mark.parametrize("shape", [(1, 64), (5, 64), (3, 7, 64), (0, 64), (64, 64), (3, 411, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_errs_at_most_twice_what_torch_does(shape, bias):
    layer, x = nn.Linear(64, 33, bias=bias), torch.randn(*shape)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.no_grad():
        own, plain = onednn.linear(x, layer.weight, layer.bias), layer(x)
        assert own.shape == plain.shape
        if x.numel():
            bound = 2 * (plain - exact).abs().max() + 1e-6
            assert (own - exact).abs().max() <= bound


@needs
def test_layers_go_through_it_only_without_gradients():
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(64, 8)
    with patch.object(torch.ops.mkldnn, "_linear_pointwise", Counting()) as op:
        with torch.no_grad(), onednn.linear_layers(x):
            inside = net(x)
        assert op.calls == 2
        with onednn.linear_layers(x):
            net(x).sum().backward()
        with torch.no_grad(), onednn.linear_layers(x):
            net.double()(x.double())
            with torch.autocast("cpu"):
                net.float()(x)
        net(x)
        assert op.calls == 2
    torch.testing.assert_close(inside, net(x))
    assert all(p.grad is not None for p in net.parameters())


@needs
@pytest.mark.parametrize("rows", [1, 16, 40, 512, 1100])
def test_quick_layers_equal_torch_with_and_without_silu(rows):
    layer, x = onednn.QuickLinear(64, 48), torch.randn(2, rows, 64)
    plain = F.linear(x, layer.weight, layer.bias)
    assert layer(x).requires_grad
    with torch.no_grad(), patch.object(torch.ops.mkldnn, "_linear_pointwise", Counting()) as op:
        torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
        with_silu = onednn.linear(x, layer.weight, layer.bias, silu=True)
        torch.testing.assert_close(with_silu, F.silu(plain), rtol=1e-5, atol=1e-5)
    assert (op.calls > 0) == (2 * rows >= onednn.BLOCKS[-1])


@needs
def test_blocks_hold_all_rows_in_order():
    for rows in (0, 1, 15, 16, 17, 40, 248, 511, 512, 513, 1999):
        blocks = onednn.blocks_of(rows)
        assert blocks[0][0] == 0 and blocks[-1][1] == rows
        assert all(begin < end and begin <= before for (_, before), (begin, end) in pairwise(blocks))
        assert rows < onednn.BLOCKS[-1] or all(end - begin in onednn.BLOCKS for begin, end in blocks)
        assert sum(end - begin for begin, end in blocks) <= max(rows + 15, 4 / 3 * rows)
        x = torch.arange(2.0 * rows).view(rows, 2)
        assert torch.equal(onednn.in_blocks(lambda part: part + 1, x), x + 1)


@needs
def test_few_shapes_are_prepared():
    """Each would be kept, with 0.6 to 2.5 MB."""
    layer = nn.Linear(8, 16)
    with patch.object(torch.ops.mkldnn, "_linear_pointwise", Counting()) as op, torch.no_grad():
        for rows in range(0, 1500, 7):
            x = torch.randn(rows, 8)
            torch.testing.assert_close(onednn.linear(x, layer.weight, layer.bias), layer(x))
    assert op.rows == set(onednn.BLOCKS)


def test_torch_without_onednn_computes_as_before():
    x, weight = torch.randn(4, 8), torch.randn(3, 8)
    with patch.object(onednn, "available", lambda: False), torch.no_grad(), onednn.linear_layers(x):
        assert torch.equal(F.linear(x, weight), x @ weight.T)
