"""Confidence of tokens against the printed formulas, and at their ends."""

import statistics

import pytest
import torch

from maya.config import ConfigTypeError
from maya.decode.confidence import ConfidenceConfig, aggregate, distribution_confidence
from maya.errors import MayaError
from tests.decode.reference_greedy import reference_confidence

MEASURES = ["max_prob", "gibbs", "tsallis", "renyi"]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("norm", ["exp", "lin"])
@pytest.mark.parametrize("alpha", [0.33, 0.5, 1.0, 2.0])
def test_values_equal_the_formulas(measure, norm, alpha):
    cfg = ConfidenceConfig(measure=measure, norm=norm, alpha=alpha)
    for outputs in (2, 7, 1025):
        for sharp in (0.1, 1.0, 6.0):
            x = (torch.randn(5, outputs) * sharp).log_softmax(-1)
            # Gibbs with another alpha than 1 is a little below 0 near the uniform distribution.
            expected = torch.tensor([reference_confidence(row, cfg) for row in x]).clamp(0, 1)
            torch.testing.assert_close(distribution_confidence(x, cfg), expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("norm", ["exp", "lin"])
@pytest.mark.parametrize("alpha", [0.33, 1.0, 1.5])
def test_certain_is_one_and_uniform_is_zero(measure, norm, alpha):
    cfg = ConfidenceConfig(measure=measure, norm=norm, alpha=alpha)
    certain = torch.full((2, 3, 9), -torch.inf)
    certain[..., 4] = 0.0
    torch.testing.assert_close(distribution_confidence(certain, cfg), torch.ones(2, 3), rtol=0, atol=1e-6)
    uniform = distribution_confidence(torch.zeros(4, 9).log_softmax(-1), cfg)
    assert uniform.abs().max() < 1e-6


@pytest.mark.parametrize("measure", ["tsallis", "renyi"])
@pytest.mark.parametrize("norm", ["exp", "lin"])
def test_alpha_of_one_is_the_limit(measure, norm):
    x = torch.randn(20, 12).log_softmax(-1)
    near = distribution_confidence(x.double(), ConfidenceConfig(measure=measure, norm=norm, alpha=1.001))
    at = distribution_confidence(x, ConfidenceConfig(measure=measure, norm=norm, alpha=1.0))
    torch.testing.assert_close(near, at, rtol=0, atol=2e-3)


def test_sharper_distributions_are_more_confident():
    x = torch.randn(50, 30)
    for measure in MEASURES:
        cfg = ConfidenceConfig(measure=measure)
        low, high = (distribution_confidence((x * k).log_softmax(-1), cfg) for k in (1.0, 3.0))
        assert (high >= low).all()


def test_aggregation_and_options():
    values = [0.5, 0.25, 1.0]
    assert [aggregate(values, aggregation) for aggregation in ("min", "max", "prod")] == [0.25, 1.0, 0.125]
    assert aggregate(values, "mean") == statistics.mean(values)
    assert ConfidenceConfig() and not ConfidenceConfig(measure="none")
    with pytest.raises(MayaError, match="alpha"):
        ConfidenceConfig(alpha=0.0)
    with pytest.raises(ConfigTypeError):
        ConfidenceConfig(measure="shannon")
