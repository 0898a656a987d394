"""A conformer layer is one graph to torch.compile."""

import pytest
import torch

from maya.encoders import FastConformer, FastConformerConfig
from maya.encoders.attention import Frames, Span, positions_needed, sinusoids

HEADS, WIDTH = 2, 16


@pytest.mark.parametrize("span", [Span(), Span(4, 4), Span(4, 1, chunk=2)])
def test_a_layer_compiles_without_graph_breaks(span):
    cfg = FastConformerConfig(d_model=WIDTH, n_layers=1, n_heads=HEADS, subsampling_channels=4)
    layer = FastConformer(cfg).layers[0].train()
    x = torch.randn(2, 60, WIDTH)
    positions = sinusoids(positions_needed(span, 60), WIDTH, x.device)
    shared = Frames(valid=torch.arange(60) < torch.tensor([[60], [31]]), positions=positions, span=span)
    torch._dynamo.reset()
    y = torch.compile(layer, backend="eager", fullgraph=True)(x, shared)
    y.sum().backward()
    assert y.isfinite().all() and all(p.grad is not None for p in layer.parameters())
    layer.eval()
    torch.testing.assert_close(
        torch.compile(layer, backend="eager", fullgraph=True)(x, shared), layer(x, shared)
    )
