"""torch.compile of a layer: one graph for a conformer layer, several around the operator for a LaCT layer."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from maya.encoders import FastConformer, FastConformerConfig, LaCTConfig
from maya.encoders.conformer.attention import AttentionSpan as Span
from maya.encoders.conformer.attention import Frames, positions_needed, relative_sinusoids
from maya.encoders.lact.encoder import LaCTLayer

HEADS, WIDTH = 2, 16


@pytest.mark.parametrize("span", [Span(), Span(4, 4), Span(4, 1, chunk=2)])
def test_layer_compiles_without_graph_breaks(span):
    cfg = FastConformerConfig(d_model=WIDTH, n_layers=1, n_heads=HEADS, subsampling_channels=4)
    layer = FastConformer(cfg).layers[0].train()
    x = torch.randn(2, 60, WIDTH)
    positions = relative_sinusoids(positions_needed(span, 60), WIDTH, x.device)
    shared = Frames(valid=torch.arange(60) < torch.tensor([[60], [31]]), positions=positions, span=span)
    torch._dynamo.reset()
    y = torch.compile(layer, backend="eager", fullgraph=True)(x, shared)
    y.sum().backward()
    assert y.isfinite().all() and all(p.grad is not None for p in layer.parameters())
    layer.eval()
    torch.testing.assert_close(
        torch.compile(layer, backend="eager", fullgraph=True)(x, shared), layer(x, shared)
    )


@pytest.mark.parametrize("order", ["whole", "passes", "chunk_causal"])
def test_compiled_lact_layer_equals_eager(order):
    window = (4, -1) if order == "chunk_causal" else (4, 4)
    cfg = LaCTConfig(
        d_model=WIDTH, n_layers=1, n_heads=HEADS, fast_heads=HEADS, ff_dim=WIDTH, order=order, chunk=4,
        window=window, momentum=order != "whole", dropout=0.0, dropout_att=0.0,
    )  # fmt: skip
    layer = LaCTLayer(cfg).train()
    torch.nn.init.ones_(layer.mixer.fast.gate.bias)  # or the fast weights would be silent
    x = torch.randn(2, 20, WIDTH, requires_grad=True)
    valid = torch.arange(20) < torch.tensor([[20], [13]])
    shared = Frames(valid=valid, positions=x.new_empty(0), span=cfg.span)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    ways = (torch.compile(layer, backend=counter), layer)
    (y, grads), (expected, expected_grads) = (
        ((z := way(x, shared)).detach(), torch.autograd.grad(z.square().mean(), [x, *layer.parameters()]))
        for way in ways
    )
    assert counter.frame_count > 0  # something was compiled
    torch.testing.assert_close(y, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)
