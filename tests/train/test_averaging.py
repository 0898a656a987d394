import pytest
import torch

from maya.train.averaging import RunningAverage, average_between


def _states(n: int) -> list[dict[str, torch.Tensor]]:
    return [{"w": torch.randn(3, 4), "steps": torch.tensor(i)} for i in range(n)]


def test_running_mean_is_the_mean_in_double_precision() -> None:
    states, average = _states(50), RunningAverage()
    for s in states:
        average.update(s)
    expected = torch.stack([s["w"].double() for s in states]).mean(0)
    assert average.mean["w"].dtype == torch.float64
    torch.testing.assert_close(average.mean["w"], expected, rtol=1e-13, atol=1e-14)
    assert "steps" not in average.mean


def test_mean_over_a_stretch_from_its_two_ends() -> None:
    states, average = _states(40), RunningAverage()
    for s in states[:25]:
        average.update(s)
    start = RunningAverage(count=average.count, mean={k: v.clone() for k, v in average.mean.items()})
    for s in states[25:]:
        average.update(s)
    got = average_between(start, average, states[-1])
    expected = torch.stack([s["w"].double() for s in states[25:]]).mean(0).float()
    torch.testing.assert_close(got["w"], expected, rtol=1e-6, atol=1e-7)
    assert got["steps"] == 39 and got["w"].dtype == torch.float32
    whole = average_between(None, average, states[-1])
    torch.testing.assert_close(
        whole["w"], torch.stack([s["w"] for s in states]).mean(0), rtol=1e-5, atol=1e-6
    )


def test_an_empty_stretch_is_refused() -> None:
    average = RunningAverage()
    average.update({"w": torch.ones(2)})
    with pytest.raises(ValueError, match="nothing was averaged"):
        average_between(average, average, {"w": torch.ones(2)})
