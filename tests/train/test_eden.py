"""Eden against values computed by hand from its formula."""

import math

import pytest

from maya.config import from_dict, to_dict
from maya.train.optimizers.eden import EdenConfig, adjusted_steps, eden


@pytest.mark.parametrize(
    ("step", "epoch", "expected"),
    [
        # (1 + x^2)^-1/4 is 2^-1/4 at x = 1 and 17^-1/4 at x = 4.
        (7499, 0, 0.045 * 2**-0.25),
        (7499, 3.5, 0.045 * 2**-0.5),
        (29999, 14, 0.045 * 17**-0.5),
        (29999, 0, 0.045 * 0.49247906),
        # Warm-up: 0.1 + 0.9 / 500 at the first step, 0.55 half way, whole from the 500th on.
        (0, 0, 0.045 * 0.1018 * (1 + 1 / 7500**2) ** -0.25),
        (249, 0, 0.045 * 0.55 * (1 + 1 / 900) ** -0.25),
        (499, 0, 0.045 * (1 + 1 / 225) ** -0.25),
    ],
)
def test_values_equal_hand_computation(step: int, epoch: float, expected: float) -> None:
    assert eden(step, epoch, peak=0.045, cfg=EdenConfig()) == pytest.approx(expected, rel=1e-7)


def test_rate_rises_in_warm_up_then_decays_as_inverse_square_root() -> None:
    rates = [eden(step, 0.5, peak=1.0, cfg=EdenConfig()) for step in range(3000)]
    assert all(a < b for a, b in zip(rates[:499], rates[1:500], strict=True))
    assert all(a > b for a, b in zip(rates[500:-1], rates[501:], strict=True))
    far = [eden(10**7 * k, 10**4 * k, peak=1.0, cfg=EdenConfig()) for k in (1, 4)]
    assert far[0] / far[1] == pytest.approx(4.0, rel=1e-5)  # 4^(1/2) by steps times 4^(1/2) by epochs


def test_no_warm_up_and_other_constants() -> None:
    cfg = EdenConfig(steps=1e5, epochs=100.0, warmup_steps=0)
    assert eden(0, 0, peak=0.0045, cfg=cfg) == pytest.approx(0.0045, rel=1e-9)
    assert from_dict(EdenConfig, to_dict(cfg)) == cfg


def test_adjusted_steps_count_batches_of_the_reference_length() -> None:
    """icefall's recipe: max_duration 1000 s on 4 GPUs counts 4000 / 600 for each of its batches."""
    assert adjusted_steps(0, batch_seconds=4000) == 0
    assert adjusted_steps(3000, batch_seconds=4000) == pytest.approx(20000)
    assert adjusted_steps(100, batch_seconds=60.0) == pytest.approx(10)
    assert math.isclose(adjusted_steps(7, batch_seconds=50, reference_seconds=100), 3.5)
