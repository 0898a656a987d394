from pathlib import Path

import pytest
import torch

from maya.errors import MayaError
from maya.train.checkpoints.averaging import RunningAverage, average_between


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


def test_mean_between_two_checkpoints() -> None:
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


def test_equal_checkpoints_are_refused() -> None:
    average = RunningAverage()
    average.update({"w": torch.ones(2)})
    with pytest.raises(MayaError, match="nothing was averaged"):
        average_between(average, average, {"w": torch.ones(2)})


def _walk(samples: int) -> list[dict[str, torch.Tensor]]:
    """Weights as in training: far from 0, each a small step from the one before."""
    w, out = torch.full((200,), 3.0), []
    for _ in range(samples):
        w = w + 1e-4 * torch.randn(200)
        out.append({"w": w})
    return out


def test_short_interval_late_in_a_run_keeps_twelve_digits() -> None:
    states, average, start = _walk(3000), RunningAverage(), RunningAverage()
    for i, s in enumerate(states):
        average.update(s)
        if i == 2969:
            start.load_state_dict(
                {"count": average.count, "mean": {k: v.clone() for k, v in average.mean.items()}}
            )
    template = {"w": states[-1]["w"].double()}
    got = average_between(start, average, template)["w"]
    expected = torch.stack([s["w"].double() for s in states[2970:]]).mean(0)
    torch.testing.assert_close(got, expected, rtol=2e-12, atol=0)
    # An accumulator in fp32 gives a coarse result (icefall after its first save).
    coarse = (average.mean["w"].float() * 3000 - start.mean["w"].float() * 2970) / 30
    assert (coarse - expected).abs().max() > 1e-6


def test_two_checkpoints_are_enough_and_survive_a_file(tmp_path: Path) -> None:
    states, average = _walk(60), RunningAverage()
    for i, s in enumerate(states, 1):
        average.update(s)
        if i in (40, 60):
            torch.save(average.state_dict(), tmp_path / f"{i}.pt")
    ends = {i: RunningAverage() for i in (40, 60)}
    for i, end in ends.items():
        end.load_state_dict(torch.load(tmp_path / f"{i}.pt", weights_only=True))
    got = average_between(ends[40], ends[60], {"w": states[-1]["w"].double()})["w"]
    expected = torch.stack([s["w"].double() for s in states[40:]]).mean(0)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


def test_batch_norm_statistics_are_averaged_and_its_counter_kept() -> None:
    norm, average, seen = torch.nn.BatchNorm1d(3), RunningAverage(), []
    for _ in range(5):
        norm(torch.randn(8, 3) + 2)
        average.update(norm.state_dict())
        seen.append(norm.running_mean.double().clone())
    got = average_between(None, average, norm.state_dict())
    torch.testing.assert_close(got["running_mean"], torch.stack(seen).mean(0).float())
    assert got["num_batches_tracked"].item() == 5
    norm.load_state_dict(got)


def test_averages_of_different_models_are_refused() -> None:
    average, other = RunningAverage(), RunningAverage()
    average.update({"a": torch.ones(2)})
    with pytest.raises(MayaError, match="b is missing in it and"):
        average_between(None, average, {"a": torch.ones(2), "b": torch.ones(3)})
    other.update({"a": torch.ones(3)})
    average.update({"a": torch.ones(2)})
    with pytest.raises(MayaError, match=r"a is \(3,\) in it and \(2,\)"):
        average_between(other, average, {"a": torch.ones(2)})
