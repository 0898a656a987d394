"""Training by epochs: its end, and the weights that each epoch saves."""

import time
from pathlib import Path

import pytest
import torch

from maya.data.plan import Position
from maya.errors import MayaError
from maya.recipes.average import average
from maya.recipes.experiment import Experiment
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import epoch_checkpoints, load_checkpoint, step_checkpoints
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig, check
from maya.train.forecast import Forecast, Pace
from maya.train.optimizers import schedule
from maya.train.optimizers.eden import EdenConfig
from tests import tiny


def _experiment() -> Experiment:
    exp = tiny.experiment()
    exp.train.schedule, exp.train.eden = "eden", EdenConfig(warmup_steps=2.0)
    exp.train.steps, exp.train.epochs, exp.train.keep = 10_000, 2, 1
    exp.train.average_every = 1
    exp.train.valid_every = exp.train.save_every = 10_000
    return exp


def test_each_epoch_saves_weights_and_the_last_ends_training(tmp_path: Path) -> None:
    exp = _experiment()
    tiny.prepare_run(exp, tmp_path, utterances=12)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    epochs = {e: load_checkpoint(p, training=True) for e, p in epoch_checkpoints(tmp_path / "run").items()}
    assert list(epochs) == [1, 2] and epochs[1].step < epochs[2].step
    (step, path), *older = step_checkpoints(tmp_path / "run")
    assert not older and step == epochs[2].step  # only the newest, from which training would continue
    last = load_checkpoint(path, training=True)
    assert last.training is not None and last.training["position"][:2] == [2, 0]
    assert all(torch.equal(last.weights[name], value) for name, value in epochs[2].weights.items())
    counts = [made.training["average"]["count"] for made in epochs.values() if made.training]
    assert counts == [epochs[1].step, epochs[2].step]
    assert set(epochs[1].training or ()) == {"average"}  # no optimizer: half of the size
    average(exp, tmp_path / "data", tmp_path / "run", epoch=2, avg=1)
    mean = load_checkpoint(tmp_path / "run" / "averaged.pt")
    assert mean.notes["weights"] == "mean of epochs 2–2" and mean.step == step


def test_end_by_steps_or_epochs() -> None:
    by_steps, by_epochs = TrainConfig(steps=5), TrainConfig(steps=5, epochs=2, schedule="eden")
    assert [schedule.is_over(by_steps, 4, 99), schedule.is_over(by_steps, 5, 0)] == [False, True]
    assert [schedule.is_over(by_epochs, 4, n) for n in (0, 1, 2)] == [False, False, True]
    assert schedule.is_over(by_epochs, 5, 1)
    with pytest.raises(MayaError, match=r"train\.epochs is for train\.schedule=eden"):
        check(TrainConfig(epochs=3), tiny.experiment().model)
    with pytest.raises(MayaError, match="passes must be 1 or more, not 0"):
        TrainConfig(passes=0)


def test_epoch_counts_passes() -> None:
    cfg = TrainConfig(passes=3)
    assert [schedule.epoch(cfg, Position(n, 7)) for n in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_expected_steps() -> None:
    def expected(step: int, position: tuple[int, int], batches: int = 10, **options: int) -> int:
        return schedule.expected_steps(TrainConfig(schedule="eden", **options), step, position, batches)

    assert expected(0, (0, 0), steps=77) == 77  # no epochs: the steps
    assert expected(0, (0, 0), steps=1000, epochs=3) == 30
    assert expected(12, (1, 2), steps=1000, epochs=3) == 30
    assert expected(30, (3, 0), steps=1000, epochs=3) == 30
    assert expected(0, (0, 0), steps=25, epochs=3) == 25  # whichever is first
    assert expected(0, (0, 0), steps=1000, epochs=2, passes=3, accumulate=4) == 15
    assert expected(0, (0, 0), batches=0, steps=9, epochs=3) == 9  # an unknown length
    assert schedule.depends_on_steps(TrainConfig()) and not schedule.depends_on_steps(
        TrainConfig(schedule="eden")
    )


def test_progress_shows_steps_epoch_and_pace() -> None:
    state = State(step=20, position=Position(2, 0))
    by_epochs = Forecast(TrainConfig(schedule="eden", steps=1000, epochs=3), 10)
    assert by_epochs.shown(state) == "~30" and by_epochs.epoch(state) == "2 of 3"
    by_steps = Forecast(TrainConfig(steps=50), 10)
    assert by_steps.shown(state) == "50" and by_steps.epoch(state) == "2"
    pace = Pace(first=10, started=time.perf_counter() - 5.0)
    assert pace.seconds_a_step(20) == pytest.approx(0.5, rel=0.1)
    assert pace.seconds_a_step(10) == pytest.approx(5.0, rel=0.1)  # no step yet: nothing is divided by 0
