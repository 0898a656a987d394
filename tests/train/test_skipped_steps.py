"""Steps whose losses or gradients are not finite: left out with the batch kept, and never met for ever."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.encoders import FastConformer
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.failure import NotFinite, kept, refusal
from tests import tiny
from tests.train.test_failure import Poison


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("skipped"), utterances=12)


def _run(data: Path, run: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Train 6 steps, a checkpoint every 2; returns the weights."""
    if not run.exists():
        shutil.copytree(data / "run", run)
    exp = tiny.experiment()
    exp.train.steps, exp.train.save_every, exp.train.valid_every, exp.train.log_every = 6, 2, 6, 1
    for name, value in options.items():
        setattr(exp.train, name, value)
    train(exp, data / "data", run, cpu=True)
    return load_checkpoint(step_checkpoints(run)[-1][1]).weights


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps whose audio holds NaN, which also ruins the statistics of batch normalisation."""
    steps: set[int] = set()
    real = SpeechModel.forward

    def forward(self: SpeechModel, batch: Any, *rest: Any) -> Any:
        if self.step in steps and self.training:
            batch.audio[0, 200:300] = torch.nan
        return real(self, batch, *rest)

    monkeypatch.setattr(SpeechModel, "forward", forward)
    return steps


def test_a_step_is_left_out_and_a_resumed_run_leaves_it_out_too(
    data: Path, tmp_path: Path, broken: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The statistics are as before the step; a run that is stopped and resumed gives the same bits."""
    broken.add(3)
    weights = _run(data, tmp_path / "straight", skip_non_finite=2)
    assert all(v.isfinite().all() for v in weights.values())
    out = capsys.readouterr().out
    assert "step 3 is left out: " in out and "step 4/6" not in out and "step 5/6" in out
    (failure,) = kept(tmp_path / "straight")
    assert failure.step == 3 and failure.tallies[0].batch.audio.isnan().any()
    assert (tmp_path / "straight" / "not-a-number" / "rank-00000-step-0000003.pt").is_file()
    with tiny.interrupted(after=2):
        _run(data, tmp_path / "stopped", skip_non_finite=2)
    resumed = _run(data, tmp_path / "stopped", skip_non_finite=2)
    assert all(torch.equal(value, weights[name]) for name, value in resumed.items())
    newest = load_checkpoint(step_checkpoints(tmp_path / "stopped")[-1][1], training=True)
    assert newest.training is not None and newest.training["skipped"] == [3]


def test_stopped_run_does_not_meet_the_batch_for_ever(data: Path, tmp_path: Path, broken: set[int]) -> None:
    """The default stops once; the same command leaves the step out, and stops at another one."""
    broken |= {3, 5}
    for step in (3, 5):
        with pytest.raises(NotFinite, match=rf"step {step}.*the same command leaves this step out"):
            _run(data, tmp_path / "run")
    weights = _run(data, tmp_path / "run")
    assert all(v.isfinite().all() for v in weights.values())
    assert json.loads((tmp_path / "run" / "stopped-at.json").read_text()) == {"steps": [3, 5]}
    # What is good now is trained on.
    broken.clear()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "stage-train.json").unlink()
    again = _run(data, tmp_path / "run")
    assert all(torch.equal(v, again[k]) for k, v in _run(data, tmp_path / "clean").items())


def test_broken_gradients_are_named_and_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, steps = FastConformer.forward, []

    def poisoned(self: FastConformer, *args: Any) -> Any:
        encoded = real(self, *args)
        if self.training:
            steps.append(1)
            encoded.frames = Poison.apply(encoded.frames) if len(steps) == 2 else encoded.frames
        return encoded

    monkeypatch.setattr(FastConformer, "forward", poisoned)
    weights = _run(data, tmp_path / "run", skip_non_finite=1)
    out = capsys.readouterr().out
    assert "step 1 is left out" in out and "gradients are not finite, such as that of encoder." in out
    assert all(v.isfinite().all() for v in weights.values())


def test_a_diverged_model_stops(data: Path, tmp_path: Path, broken: set[int]) -> None:
    broken |= {2, 3, 4, 5}
    with pytest.raises(MayaError, match=r"step 4.*the 2 step\(s\) before it .* the model has diverged"):
        _run(data, tmp_path / "run", skip_non_finite=5, skip_in_row=2)


def test_the_limits() -> None:
    def why(step: int, skipped: list[int], **options: Any) -> str:
        return refusal(TrainConfig(**options), State(step=step, skipped=skipped, stopped_at=[7]))

    assert "the same command" in why(5, []) and not why(7, [])
    assert not why(5, [1], skip_non_finite=2) and why(5, [1, 3], skip_non_finite=2)
    assert "diverged" in why(7, [4, 5, 6]) and not why(8, [4, 5, 6], skip_non_finite=9)
