"""Validations with intervals: clear improvements, overfitting, patience; the best weights that are kept."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maya.recipes.average import average, average_newest
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import best_checkpoints, load_checkpoint, step_checkpoints
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.verdict import DevScores, DevUtterances, judge
from tests import tiny

NAN = float("nan")


def _dev(rate: float, nats: float, seed: int, count: int = 200) -> DevScores:
    """A validation of `count` utterances of 50 characters in two languages, with this error rate and loss."""
    rng = np.random.default_rng(seed)
    errors = rng.binomial(50, rate, count).tolist()
    losses = (1000 * (nats + 0.1 * rng.standard_normal(count))).round().astype(int).tolist()
    ids, groups = [f"u{i}" for i in range(count)], ["hi", "en"] * (count // 2)
    scores = DevScores({"error": sum(errors) / (50 * count), "loss": nats})
    scores.utterances = DevUtterances(
        ids=ids, groups=groups, errors=errors, lengths=[50] * count, losses=losses, units=[1] * count
    )
    return scores


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return SimpleNamespace(folder=tmp_path, log=SimpleNamespace(main=True))


def test_small_steps_add_up_and_noise_counts_against_patience(run: Any) -> None:
    state, texts, waits = State(), [], []
    for step, rate in enumerate((0.30, 0.299, 0.298, 0.27, 0.269, 0.27, 0.271)):
        state.step = 10 * (step + 1)
        verdict = judge(run, state, _dev(rate, 1.0, step), NAN, anew=False)
        texts.append(verdict.text)
        waits.append(state.waited)
    assert waits == [0, 1, 2, 0, 1, 2, 3] and texts[0] == ""
    assert "since step 10: no clear change" in texts[1] and "since step 10: clearly better" in texts[3]
    assert "since step 40" in texts[4]
    values = verdict.values
    assert (
        values["change_low"] < 0 < values["change_high"]
        and values["error_low"] < 0.271 < values["error_high"]
    )
    judge(run, state, _dev(0.9, 1.0, 9), NAN, anew=True)  # another head decodes from here on
    assert state.waited == 0


def test_overfitting_is_said_with_its_interval(run: Any) -> None:
    state = State(step=10)
    judge(run, state, _dev(0.30, 1.0, 0), 0.8, anew=False)
    state.step = 20
    verdict = judge(run, state, _dev(0.30, 1.2, 1), 0.5, anew=False)
    assert (
        "OVERFITTING: the loss on dev has changed by +0.2" in verdict.text
        and "from 0.800 to 0.500" in verdict.text
    )
    assert verdict.values["overfitting"] == 1.0
    for loss, train_loss in ((1.2, 0.9), (1.2, NAN), (0.9, 0.5)):  # it does not learn; unknown; both fall
        assert "OVERFITTING" not in judge(run, state, _dev(0.30, loss, 2), train_loss, anew=False).text


def test_scores_without_utterances_are_compared_as_they_are(run: Any) -> None:
    state = State(step=1)
    for step, error, waited in ((1, 0.5, 0), (2, 0.6, 1), (3, 0.5, 2), (4, 0.4, 0)):
        state.step = step
        assert judge(run, state, {"error": error}, NAN, anew=False).text == "" and state.waited == waited


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("verdict"), utterances=12)


def _run(data: Path, run: Path, **options: Any) -> list[dict[str, Any]]:
    """Train 12 steps with a validation every 2; returns the rows of metrics.jsonl."""
    if not run.exists():
        shutil.copytree(data / "run", run)
    exp = tiny.experiment()
    exp.train.save_every, exp.train.valid_every, exp.train.log_every = 5, 2, 1
    for name, value in options.items():
        setattr(exp.train, name, value)
    train(exp, data / "data", run, cpu=True)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Validations give an error of 0.5, or that of their step."""
    errors: dict[int, float] = {}

    def validate(model: Any, *_: Any) -> dict[str, float]:
        return {"error": errors.get(model.step + 1, 0.5), "loss": 1.0}

    monkeypatch.setattr("maya.recipes.train.dev_validation", lambda *_, **__: validate)
    return errors


def test_patience_ends_a_training_which_more_patience_continues(
    data: Path, tmp_path: Path, flat: dict[int, float], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flat |= {4: 0.4, 8: 0.45}
    _run(data, run, patience=2)  # better at 4; not at 6 and 8
    out = capsys.readouterr().out
    assert "training ends at step 8: 2 validations in a row without a clear improvement" in out
    assert step_checkpoints(run)[-1][0] == 8 and load_checkpoint(run / "best.pt").step == 4
    _run(data, run, patience=2)
    assert "up to date" in capsys.readouterr().out
    (run / "stage-train.json").unlink()
    _run(data, run, patience=2)
    assert "the run has ended at step 8 (train.patience=2)" in capsys.readouterr().out
    rows = _run(data, run, patience=5)
    assert [row["step"] for row in rows if row["kind"] == "valid"] == [2, 4, 6, 8, 10, 12]
    record = json.loads((run / "validations.json").read_text())
    assert [row["waited"] for row in record.values()] == [0, 0, 1, 2, 3, 4]
    straight = load_checkpoint(step_checkpoints(run)[-1][1]).weights
    _run(data, tmp_path / "straight", patience=0)
    other = load_checkpoint(step_checkpoints(tmp_path / "straight")[-1][1]).weights
    assert all(torch.equal(value, other[name]) for name, value in straight.items())


def test_the_best_are_kept_and_averaged(
    data: Path, tmp_path: Path, flat: dict[int, float], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flat |= {2: 0.45, 4: 0.3, 6: 0.35, 8: 0.2, 10: 0.6, 12: 0.33}
    _run(data, run, keep_best=3, ema=0.9, average_every=1)
    assert [step for step, _ in best_checkpoints(run)] == [4, 8, 12]
    assert load_checkpoint(run / "best.pt").step == 8
    kept = [load_checkpoint(path) for _, path in best_checkpoints(run)]
    assert [k.notes["valid"]["error"] for k in kept] == [0.3, 0.2, 0.33]
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        *(p.name for _, p in best_checkpoints(run)), *(p.name for _, p in step_checkpoints(run))
    }  # fmt: skip
    exp = tiny.experiment()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(
        "maya.recipes.average.dev_validation", lambda *_, **__: lambda *_: {"error": 0.5, "loss": 1.0}
    )
    capsys.readouterr()
    average(exp, data / "data", run)
    out = capsys.readouterr().out
    assert "mean of the 3 best" in out and "EMA (step 12)" in out
    average_newest(run, 2)
    monkey.undo()
    ends = [load_checkpoint(path).weights for _, path in step_checkpoints(run)[-2:]]
    mean = load_checkpoint(run / "averaged.pt")
    assert mean.notes["weights"] == "mean of the 2 newest"
    for name, value in mean.weights.items():
        if value.is_floating_point():
            both = (ends[0][name].double() + ends[1][name].double()) / 2
            assert torch.allclose(value.double(), both, atol=1e-6), name


def test_ema_survives_a_stop(data: Path, tmp_path: Path) -> None:
    """A sample every step, with the decay of the option."""
    options: dict[str, Any] = {"ema": 0.7, "average_every": 1, "valid_every": 0}
    _run(data, tmp_path / "straight", **options)
    with tiny.interrupted(after=7):
        _run(data, tmp_path / "stopped", **options)
    _run(data, tmp_path / "stopped", **options)
    a, b = (
        load_checkpoint(step_checkpoints(tmp_path / name)[-1][1], training=True)
        for name in ("straight", "stopped")
    )
    assert a.training is not None and b.training is not None and a.training["ema"]["count"] == 12
    for name, value in a.training["ema"]["mean"].items():
        assert torch.equal(value, b.training["ema"]["mean"][name])
    assert any(
        not torch.equal(v, a.training["average"]["mean"][k]) for k, v in a.training["ema"]["mean"].items()
    )


def test_real_validation_knows_its_utterances(data: Path, tmp_path: Path) -> None:
    rows = _run(data, tmp_path / "run", steps=4)
    reference = json.loads((tmp_path / "run" / "validation-reference.json").read_text())
    utterances = DevUtterances(**reference["utterances"])
    assert len(utterances.ids) == len(set(utterances.ids)) > 1 and set(utterances.groups) == {"en", "hi"}
    row = next(r for r in rows if r["kind"] == "valid" and r["step"] == reference["step"])
    rates = [stats.rate for stats in utterances.rates(set(utterances.ids))[0].values()]
    assert row["error"] == pytest.approx(sum(rates) / 2)
    loss = sum(utterances.losses) / 1000 / sum(utterances.units)
    assert row["loss"] == pytest.approx(loss, rel=1e-3)
    assert TrainConfig().patience == 0
