"""SI-SDR against its definition, and the best order of the sources."""

import math

import pytest
import torch

from maya.errors import MayaError
from maya.losses.separation import pit_si_sdr_loss, si_sdr


def defined(estimate: torch.Tensor, source: torch.Tensor) -> float:
    """Equation 5 of arXiv:1811.02508, of signals without their means."""
    e, s = estimate - estimate.mean(), source - source.mean()
    target = (e @ s) / (s @ s) * s
    return float(10 * torch.log10((target @ target) / ((target - e) @ (target - e))))


def test_si_sdr_is_its_definition_and_ignores_scale_and_offset() -> None:
    source, noise = torch.randn(2, 500, dtype=torch.float64)
    estimate = source + 0.3 * noise
    lens = torch.tensor(500)
    value = float(si_sdr(estimate, source, lens))
    assert value == pytest.approx(defined(estimate, source), abs=1e-6)
    assert float(si_sdr(7 * estimate + 2, source, lens)) == pytest.approx(value, abs=1e-6)


def test_the_best_order_of_three_and_what_is_beyond_the_end() -> None:
    sources = torch.randn(2, 3, 400)
    estimates = sources[:, [2, 0, 1]] + 0.1 * torch.randn(2, 3, 400)
    loss, order = pit_si_sdr_loss(estimates, sources, torch.tensor([400, 300]))
    assert order.tolist() == [[1, 2, 0]] * 2
    alone, _ = pit_si_sdr_loss(estimates[1:, :, :300], sources[1:, :, :300], torch.tensor([300]))
    assert torch.allclose(loss[1:], alone, atol=1e-5)
    mean = sum(defined(estimates[0, order[0, k]], sources[0, k]) for k in range(3)) / 3
    assert float(loss[0]) == pytest.approx(-mean, abs=1e-4)


@pytest.mark.parametrize("source", [torch.zeros(1, 2, 50), torch.ones(1, 2, 50)])
def test_silence_has_a_finite_loss_and_gradient(source: torch.Tensor) -> None:
    estimates = torch.zeros(1, 2, 50, requires_grad=True)
    for size in (0, 1, 50):
        loss, _ = pit_si_sdr_loss(estimates + 0.0, source, torch.tensor([size]))
        loss.sum().backward()
        assert loss.isfinite().all() and estimates.grad is not None and estimates.grad.isfinite().all()


def test_a_half_precision_estimate_is_computed_wide() -> None:
    sources = torch.randn(1, 2, 4000) * 100
    loss, _ = pit_si_sdr_loss(sources.bfloat16(), sources, torch.tensor([4000]))
    assert loss.dtype == torch.float32 and math.isfinite(float(loss))


def test_six_sources_are_refused() -> None:
    with pytest.raises(MayaError, match="6 sources have too many orders"):
        pit_si_sdr_loss(torch.zeros(1, 6, 9), torch.zeros(1, 6, 9), torch.tensor([9]))
