"""SwooshL, SwooshR and BiasNorm: formulas and gradients of the memory-saving forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from maya.encoders.zipformer.bias_norm import BiasNorm
from maya.encoders.zipformer.swoosh import swoosh_l, swoosh_r

double = {"dtype": torch.float64, "requires_grad": True}


@pytest.mark.parametrize(("kind", "shift", "constant"), [(swoosh_l, 4, 0.035), (swoosh_r, 1, 0.313261687)])
def test_swoosh_equals_its_formula_and_gradient(kind, shift, constant):
    x = torch.tensor([-1000.0, -60, -3, -0.5, 0, 0.7, 4, 25, 60, 1000], **double)
    formula = torch.logaddexp(x - shift, torch.zeros_like(x)) - 0.08 * x - constant
    for form in (kind(x), kind.plain(x), kind(x.detach())):
        torch.testing.assert_close(form, formula, rtol=0, atol=1e-12)
    grad = torch.autograd.grad(kind(x).sum(), x)[0]
    torch.testing.assert_close(grad, (x - shift).sigmoid() - 0.08, rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(kind, torch.randn(3, 5, **double))
    assert kind is not swoosh_r or abs(float(kind(torch.zeros(())))) < 1e-6


@pytest.mark.parametrize("masked", [False, True])
def test_swoosh_linear_equals_its_parts(masked):
    x, weight, bias = torch.randn(2, 3, 5, **double), torch.randn(4, 5, **double), torch.randn(4, **double)
    mask = torch.rand(2, 1, 5, dtype=torch.float64) if masked else None
    parts = F.linear(swoosh_l.plain(x) * (1 if mask is None else mask), weight, bias)
    torch.testing.assert_close(swoosh_l.linear(x, weight, bias, mask), parts, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *a: swoosh_l.linear(*a, mask), (x, weight, bias))


def test_swoosh_linear_saves_only_its_input():
    kept = []
    x, weight, bias = torch.randn(50, 16, requires_grad=True), torch.randn(8, 16), torch.randn(8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        swoosh_r.linear(x * 2, weight.requires_grad_(), bias.requires_grad_())
    assert sum(t.numel() for t in kept) == x.numel() + weight.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_larger_than_a_block_and_strided_input(dtype):
    x = torch.randn(3, 40_000, 2).to(dtype).transpose(1, 2).requires_grad_()
    torch.testing.assert_close(swoosh_r(x), swoosh_r.plain(x))
    swoosh_r(x).sum().backward()
    torch.testing.assert_close(x.grad, ((x.float() - 1).sigmoid() - 0.08).to(dtype).detach())


def test_autocast_trains():
    x = torch.randn(3, 6, 16)
    weight, bias = torch.randn(8, 16, requires_grad=True), torch.randn(8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = swoosh_l.linear(F.linear(x, torch.eye(16)).requires_grad_(), weight, bias)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert weight.grad.dtype == bias.grad.dtype == torch.float32 and weight.grad.isfinite().all()


def test_bias_norm_equals_its_formula_and_gradient():
    norm = BiasNorm(6).double().eval()
    with torch.no_grad():
        norm.bias.normal_()
        norm.log_scale.fill_(0.3)
    x = torch.randn(2, 4, 6, **double)
    rms = ((x - norm.bias) ** 2).mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), x / rms * math.exp(0.3), rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), x / rms * math.exp(0.3), rtol=0, atol=1e-12)

    def call(x, bias, log_scale):
        return torch.func.functional_call(norm, {"bias": bias, "log_scale": log_scale}, (x,))

    assert torch.autograd.gradcheck(call, (x, norm.bias, norm.log_scale))


def test_bias_norm_is_fp32_under_autocast():
    norm = BiasNorm(6)
    assert norm(torch.randn(2, 6, dtype=torch.bfloat16)).dtype == torch.float32
    assert norm.bfloat16()(torch.randn(2, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
