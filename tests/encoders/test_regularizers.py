"""Balancer, Whiten, Limit and schedules against their definitions with autograd."""

import math

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from maya.encoders.zipformer import regularizers
from maya.encoders.zipformer.regularizers import (
    Balancer,
    Controls,
    Limit,
    Regulated,
    Schedule,
    Switch,
    Whiten,
    balanced_grad,
    scale_grad,
    sequence_mask,
    shared_dropout_mask,
    whitened_grad,
)
from tests.encoders.test_zipformer import CAUSAL, perturb, tiny


@pytest.mark.parametrize(
    ("count", "expected"), [(-5, 0.2), (0, 0.2), (2000, 0.125), (4000, 0.05), (10_000, 0.025), (10**9, 0.0)]
)
def test_schedule_is_linear_between_its_points(count, expected):
    schedule = Schedule((0, 0.2), (4000, 0.05), (16_000, 0.0))
    assert schedule.value == 0.2
    schedule.move(count)
    assert schedule.value == pytest.approx(expected) and float(schedule.tensor) == pytest.approx(expected)


def test_schedule_is_constant_before_its_first_point():
    schedule = Schedule((1000, 0.5), (2000, 0.1))
    schedule.move(400)
    assert schedule.value == 0.5


class Part(Regulated):
    def __init__(self, probability):
        super().__init__()
        self.switch = Switch(probability)
        self.controls = Controls(self)


def test_switch_follows_probability_and_generator():
    model = nn.Sequential(Part(Schedule((0, 0.0), (10, 0.5))), Part(1.0))
    generator = torch.Generator().manual_seed(0)
    ons = []
    for count in (0, 10):
        regularizers.set_batch_count(model, count)
        for _ in range(400):
            regularizers.draw(model, generator)
            ons.append((model[0].switch.on, model[1].switch.on, float(model[0].switch.tensor)))
    assert all(second for _, second, _ in ons) and all(on == bool(t) for on, _, t in ons)
    assert sum(on for on, *_ in ons[:400]) == 0 and 160 < sum(on for on, *_ in ons[400:]) < 240


def balancer_reference(grad, x, limits):
    """The two terms of the definition, differentiated by torch."""
    least_mean, most_mean, least_rms, most_rms, grad_scale = limits
    x = x.detach().double().requires_grad_()
    dims = tuple(range(x.ndim - 1))
    mean, square = x.mean(dims), x.square().mean(dims)
    m = mean / (square - mean**2).sqrt()
    rms = square.sqrt()
    loss = (m - m.clamp(least_mean, most_mean)).abs() + (rms.clamp(least_rms, most_rms) / rms).log().abs()
    slope = torch.autograd.grad(loss.sum(), x)[0]
    slope = slope * grad_scale / slope.square().mean(dims).sqrt().clamp(min=1e-20)
    return grad + grad.abs() * slope


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_balancer_equals_its_definition(dtype):
    x = torch.randn(4, 30, 6, dtype=dtype) * torch.tensor([1, 1, 1, 0.01, 30, 5]).to(dtype)
    x = x + torch.tensor([0, 3, -3, 0, 0, 20]).to(dtype)
    grad = torch.randn_like(x)
    balancer = Balancer(0.3, 0.7, 0.2, 4.0)
    reference = balancer_reference(grad.double(), x, balancer.limits())
    out = balanced_grad(grad, x, balancer.limits())
    torch.testing.assert_close(
        out.double(), reference, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5
    )
    assert torch.equal(out[..., 0], grad[..., 0])  # inside its limits
    ratio = ((out - grad) / grad.abs()).square().mean((0, 1)).sqrt()
    torch.testing.assert_close(ratio[1:], torch.full_like(ratio[1:], 0.04))


def test_balancer_pushes_towards_its_limits():
    """Gradient descent on the penalty alone: a negative, tiny channel grows and becomes positive."""
    x = (0.05 * torch.randn(500, 1) - 0.2).requires_grad_()
    balancer = Balancer(0.4, 0.6, 0.2, 1.0)
    for _ in range(300):
        x = (x - (balanced_grad(torch.ones_like(x), x, balancer.limits()) - 1)).detach()
    assert 0.35 < float((x > 0).float().mean()) < 0.65 and x.abs().mean() > 0.15


def test_limits_of_a_normal_distribution():
    low, high, small, large, _ = Balancer(0.05, 1.0, 0.0, 1.0).limits()
    assert low == pytest.approx(-0.8139535 * math.atanh(0.9)) and 5 < high < math.inf
    assert small == 0 and large == pytest.approx(math.sqrt(math.pi / 2))


@pytest.mark.parametrize("groups", [1, 2])
def test_whiten_equals_its_definition(groups):
    x = (torch.randn(50, 3, 1, dtype=torch.float64) + 0.3 * torch.randn(50, 3, 8, dtype=torch.float64)) + 2
    grad = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    flat = leaf.reshape(150, groups, -1)
    flat = flat - flat.mean(0)
    covariance = torch.einsum("ngc,ngd->gcd", flat, flat)
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    metric = (covariance @ covariance).diagonal(dim1=1, dim2=2).mean() / diagonal.mean() ** 2
    slope = torch.autograd.grad(metric, leaf)[0]
    expected = grad + slope * 0.01 * grad.norm() / slope.norm()
    for limit in (1.5, float(metric.detach()) - 1e-6):
        torch.testing.assert_close(whitened_grad(grad, x, limit, groups, 0.01), expected, rtol=0, atol=1e-10)
    assert torch.equal(whitened_grad(grad, x, float(metric.detach()) + 1e-6, groups, 0.01), grad)


def test_white_channels_are_unchanged():
    x, grad = torch.randn(4000, 8), torch.randn(4000, 8)
    assert torch.equal(whitened_grad(grad, x, 1.1, 1, 0.01), grad)


@pytest.mark.parametrize("part", [Balancer(prob=1.0), Whiten(1, 1.01, 0.01, prob=1.0), Limit(0.1, 0.2)])
def test_values_never_change_and_eval_keeps_the_gradient(part):
    part.switch.decide(0.0)
    x = torch.randn(20, 4) ** 3 + 3
    grads = []
    for training in (True, False):
        leaf = x.clone().requires_grad_()
        y = part.train(training)(leaf)
        assert torch.equal(y, x)
        (y * torch.arange(1.0, 5)).sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(grads[1], torch.arange(1.0, 5).expand(20, 4)) and not torch.equal(*grads)
    with torch.no_grad():
        assert part.train()(x) is x or isinstance(part, Limit)


def test_limit_reverses_gradients_that_lead_outside():
    limit = Limit(0.0, 1.0)
    limit.switch.decide(0.0)
    x = torch.tensor([-1.0, -1.0, 0.5, 0.5, 2.0, 2.0], requires_grad=True)
    limit(x).backward(torch.tensor([1.0, -1, 1, -1, 1, -1]))
    assert x.grad.tolist() == [-1, -1, 1, -1, 1, 1]


def test_scale_grad_scales_the_gradient():
    x = torch.ones(3, requires_grad=True)
    scale_grad(x, 0.2).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 0.2))


def test_dropout_masks_keep_the_mean():
    x = torch.zeros(5000, 7, 3)
    assert sequence_mask(x, 0.0) is None and shared_dropout_mask(x, 0.0) is None
    mask = sequence_mask(x, 0.3)
    assert mask.shape == (5000, 1, 1) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.mean()) - 0.7) < 0.03
    mask = shared_dropout_mask(x, 0.3)
    assert mask.shape == (5000, 1, 3) and abs(float(mask.mean()) - 1) < 0.03


ONE_STACK = dict(
    downsampling=(2,),
    layers=(1,),
    dims=(16,),
    unmasked_dims=(12,),
    ff_dims=(16,),
    heads=(2,),
    conv_kernels=(5,),
    query_head_dim=4,
    value_head_dim=4,
    pos_dim=8,
)


@pytest.mark.slow
def test_a_compiled_graph_follows_the_drawn_decisions():
    torch._dynamo.reset()
    parts = nn.Sequential(Balancer(0.3, 0.7, 0.2, 1.0, prob=1.0), Whiten(1, 1.01, 0.01, prob=1.0)).train()
    compiled = torch.compile(parts, backend="aot_eager", fullgraph=True)
    x, grad = torch.randn(50, 4) ** 3 + 2, torch.randn(50, 4)
    for on in (True, False, True):
        grads = []
        for part in parts:
            part.switch.decide(0.0 if on else 1.0)
        parts[0].prepare()
        for form in (parts, compiled):
            leaf = x.clone().requires_grad_()
            form(leaf).backward(grad)
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads)
        assert torch.equal(grads[1], grad) != on


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, CAUSAL | {"chunk_frames": (8,), "left_context_frames": (24,)}])
def test_draws_and_schedules_do_not_recompile(options):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = perturb(tiny(ONE_STACK, **options)).train()
    model.draw()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    x, lens = torch.randn(2, 80, 80), torch.tensor([80, 60])
    for step in range(6):
        model.set_batch_count(100.0 * step)
        for switch in model.controls.switches:
            switch.probability = float(step % 2)
        model.draw()
        model.zero_grad()
        enc, _ = compiled(x, lens)
        enc.square().sum().backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    assert counter.frame_count == 1
