"""Pruned RNN-T has the host wait for no device, takes any windows, and adds in one order."""

import pytest
import torch

from maya.kernels.pruned_rnnt import (
    TYPES,
    fused_pruned_rnnt_loss,
    prune_ranges,
    pruned_rnnt_loss,
    simple_rnnt_loss,
)
from tests.kernels.pruned_cases import BLANK, fused, joint_problem, problem
from tests.no_waiting import no_waiting

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the device is simulated on a CPU")


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("peaked", [False, True])
def test_all_steps_of_the_loss_wait_for_nothing(rnnt_type: str, peaked: bool) -> None:
    """peaked: the exponentials of the simple joiner underflow in every cell."""
    am, lm, targets, *lens = problem([5, 4], [3, 2], dtype=torch.float32)
    am[..., 0] += 200.0 * peaked
    lm[..., 1] += 200.0 * peaked
    weight, bias = torch.randn(6, 6), torch.randn(6)
    leaves = [x.requires_grad_() for x in (am, lm, weight, bias)]
    options = {"blank": BLANK, "rnnt_type": rnnt_type, "delay_penalty": 0.1, "backend": "triton"}
    with no_waiting(*leaves) as waits:
        first, px, py = simple_rnnt_loss(
            am, lm, targets, *lens, lm_only_scale=0.2, am_only_scale=0.1, **options
        )
        ranges = prune_ranges(px, py, *lens, s_range=2, rnnt_type=rnnt_type)
        second = fused_pruned_rnnt_loss(
            *leaves, targets, ranges, *lens, activation="tanh", dropout=0.1, **options
        )
        logits = (am[:, :, None] + lm[:, None]).gather(2, ranges[..., None].expand(-1, -1, -1, 6))
        third = pruned_rnnt_loss(logits, targets, ranges, *lens, **options)
        (first + second + third).sum().backward()
    assert waits == []
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)


def test_the_device_refuses_windows_with_gaps() -> None:
    f, g, weight, bias, targets, *lens = joint_problem(dtype=torch.float32)
    ranges = torch.zeros(*f.shape[:2], 2, dtype=torch.int64)
    with no_waiting(f, g, weight, bias, ranges), pytest.raises(RuntimeError, match="consecutive positions"):
        fused_pruned_rnnt_loss(f, g, weight, bias, targets, ranges, *lens, blank=BLANK, backend="triton")


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_windows_may_reach_beyond_a_text(eps: float) -> None:
    """What lies there in the padding of g is never read, and adds nothing."""
    f, g, weight, bias, targets, frames, labels = joint_problem()
    # Windows begin at position U or before, so that there is a path; those of the last row begin after it.
    start = torch.arange(f.shape[1]).clamp(max=3).expand(len(f), -1).minimum(labels[:, None]).clone()
    start[-1] = 3
    ranges = start[..., None] + torch.arange(4)
    beyond = torch.arange(g.shape[1]) > labels[:, None]
    assert (ranges[:, :, -1] > labels[:, None]).any(1).all()
    rest = (weight, bias, targets, ranges, frames, labels)
    expected = fused(f, g, *rest, backend="reference")
    assert expected[0].isfinite().tolist() == [True, True, True, False]
    outputs = fused(f, g.masked_fill(beyond[..., None], float("nan")), *rest, eps=eps, dropout=0.0)
    torch.testing.assert_close(outputs[0], expected[0], rtol=1e-12, atol=1e-12)
    assert all(x.isfinite().all() for x in outputs[1:])
    torch.testing.assert_close(outputs[1:], expected[1:], rtol=1e-3, atol=1e-3 if eps else 1e-10)
