"""Loss spikes, stalls, the largest gradient, memory, and trackers beside TensorBoard."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking

from maya.errors import MayaError
from maya.recipes.train import train
from maya.train import health, loop
from maya.train.failure import OutOfMemory
from maya.train.health import SpikeDetector, StallDetector, peak_memory, place_of
from maya.train.optimizers.optim import gradient_norm, largest_gradient
from maya.train.trackers import Trackers, open_tracker
from tests import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("health"), utterances=12)


def _run(data: Path, run: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl after 6 steps."""
    if not run.exists():
        shutil.copytree(data / "run", run)
    exp = tiny.experiment()
    exp.train.steps, exp.train.save_every, exp.train.valid_every, exp.train.log_every = 6, 3, 3, 1
    for name, value in options.items():
        setattr(exp.train, name, value)
    train(exp, data / "data", run, cpu=True)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_spike_is_reported_once_and_a_new_level_becomes_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = (0.1 * torch.randn(400, generator=generator)).tolist()
    detector = SpikeDetector(limit=8.0)
    assert not any(detector.see(3.0 - 0.002 * i + noise[i]) for i in range(300))
    assert detector.see(8.0) > 8 and detector.see(8.0) == 0.0  # the same spike
    assert detector.see(2.4) == 0.0 and detector.see(6.0) > 8
    reports = [detector.see(6.0 + noise[i]) for i in range(200)]
    assert not any(reports) and detector.median() == pytest.approx(6.0, abs=0.1)
    off = SpikeDetector(limit=0.0)
    assert not any(off.see(1.0) for _ in range(100)) and off.see(99.0) == 0.0


def test_a_spike_in_training_names_its_utterances(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = loop.train_step

    def jumping(*args: Any) -> Any:
        stats = real(*args)
        stats.loss *= 50 if args[3].step == 4 else 1
        return stats

    def eager(**options: Any) -> SpikeDetector:
        return SpikeDetector(least=3, **options)

    monkeypatch.setattr(loop, "train_step", jumping)
    monkeypatch.setattr(health, "SpikeDetector", eager)
    rows = _run(data, tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "spike"] == [5]
    (spike,) = map(json.loads, (tmp_path / "run" / "spikes.jsonl").read_text().splitlines())
    assert spike["step"] == 5 and spike["ids"][0] and spike["loss"] > 10 * spike["median"]
    assert "loss spike at step 5" in capsys.readouterr().out


def test_another_objective_is_no_spike(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With TDT's omega a tenth of the steps have the RNN-T loss, which is many times as high."""
    real = loop.train_step

    def now_and_then(*args: Any) -> Any:
        stats = real(*args)
        if args[3].step % 3 == 2:
            stats.loss, stats.objective = 50 * stats.loss, "rnnt"
        return stats

    monkeypatch.setattr(loop, "train_step", now_and_then)
    monkeypatch.setattr(health, "SpikeDetector", lambda **options: SpikeDetector(least=2, **options))
    assert not [row for row in _run(data, tmp_path / "run") if row["kind"] == "spike"]
    assert "loss spike" not in capsys.readouterr().out


def test_stall_is_reported_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = StallDetector(0.2, tmp_path / "stall.txt")
    detector.beat(7)
    detector.start()
    deadline = time.monotonic() + 20
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.05)
    assert detector.beat(8) > 0.2 and detector.beat(9) == 0.0
    detector.end()
    detector.join(10)
    assert "after step 7" in caplog.text and "stall.txt" in caplog.text and not detector.is_alive()
    stacks = (tmp_path / "stall.txt").read_text()
    assert "no step after step 7" in stacks and "test_stall_is_reported" in stacks


def test_place_is_the_innermost_of_our_own_code() -> None:
    assert "test_health" in place_of(threading.get_ident()) or "place_of" in place_of(threading.get_ident())
    assert place_of(0) == "an unknown place"


def test_no_stall_is_reported_in_a_training_that_moves(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = threading.active_count()
    _run(data, tmp_path / "run", stall_seconds=60.0)
    assert "stall" not in caplog.text and threading.active_count() <= before + 1


def test_largest_gradient_is_named_in_the_log(data: Path, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    assert largest_gradient(model) == ("", 0.0)
    model(torch.ones(1, 3)).sum().backward()
    model[1].weight.grad.fill_(100.0)  # type: ignore[union-attr]
    name, share = largest_gradient(model)
    total = float(gradient_norm(model)) ** 2
    assert name == "1.weight" and share == pytest.approx(2 * 100.0**2 / total)
    rows = [row for row in _run(data, tmp_path / "run") if row["kind"] == "train"]
    names = {name for name, _ in tiny_names()}
    assert all(row["largest_gradient"] in names for row in rows)
    assert all(0 < row["largest_gradient_share"] <= 1 and row["memory_gb"] > 0.05 for row in rows)
    assert peak_memory()["memory_gb"] >= rows[-1]["memory_gb"]


def tiny_names() -> list[tuple[str, Any]]:
    from maya.models.speech_model import build_model  # noqa: PLC0415

    return list(build_model(tiny.hybrid()).named_parameters())


def test_training_continues_when_validation_has_no_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def hungry(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        real(*_)

    from maya.train import validate  # noqa: PLC0415

    real = validate._add  # noqa: SLF001
    monkeypatch.setattr(validate, "_add", hungry)
    rows = _run(data, tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "valid_failed"] == [3]
    assert [row["step"] for row in rows if row["kind"] == "valid"] == [6]
    out = capsys.readouterr().out
    assert "NOT VALIDATED, out of memory: rank 0: CUDA out of memory" in out and "decode.max_seconds" in out
    monkeypatch.setattr(validate, "_add", lambda *_: [].pop())
    with pytest.raises(IndexError):  # nothing else is taken for it
        _run(data, tmp_path / "other")
    assert OutOfMemory.__mro__[1] is MayaError


class NotebookTracker(tracking.GeneralTracker):
    """A tracker of the kind that users register."""

    name, requires_logging_directory = "notebook", True
    pages: list[tuple[str, Any]] = []  # noqa: RUF012

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.pages.append(("made", (run_name, logging_dir)))

    @property
    def tracker(self) -> list:
        return self.pages

    def store_init_configuration(self, values: dict) -> None:
        self.pages.append(("configuration", values))

    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        if step == 4:
            raise ConnectionError("the service is down")
        self.pages.append(("log", (step, values)))

    def finish(self) -> None:
        self.pages.append(("finish", None))


def test_a_tracker_sees_the_run_and_its_failure_stops_nothing(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking.register_tracker_class(NotebookTracker)
    try:
        rows = _run(data, tmp_path / "run", trackers=("notebook",))
    finally:
        del tracking.LOGGER_TYPE_TO_CLASS["notebook"]
    pages = NotebookTracker.pages
    assert pages[0] == ("made", ("run", str(tmp_path / "run")))
    assert pages[1][0] == "configuration" and pages[1][1]["train.lr"] == 3e-3
    logged = [value for kind, value in pages if kind == "log"]
    assert [step for step, _ in logged] == [1, 2, 3, 3]
    first = next(row for row in rows if row["kind"] == "train")
    assert logged[0][1]["train/loss"] == first["loss"] and "valid/error" in logged[3][1]
    assert "the tracker notebook failed and is left out: the service is down" in caplog.text
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_unknown_and_missing_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MayaError, match=r"unknown tracker 'wnadb'; expected one of .*wandb"):
        open_tracker("wnadb", tmp_path)
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(MayaError, match="pip install wandb"):
        Trackers(["wandb"], tmp_path)
