"""Resuming: comparison of data and tokenizer, damaged checkpoints, and extended runs."""

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from maya.data.table.table import Table, write_table
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.recipes.average import average
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.text.load import load_tokenizer
from maya.train import loop
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from maya.train.checkpoints.state import State
from maya.train.optimizers.eden import EdenConfig
from maya.train.stop import Interrupted
from maya.train.training_data import TrainingData, describe_data
from tests import tiny, tones


def experiment(steps: int = 4, **options: object) -> Experiment:
    exp = tiny.experiment()
    exp.train.steps, exp.train.warmup_steps = steps, 1
    exp.train.valid_every = exp.train.save_every = 2
    exp.train.log_every = exp.train.average_every = 1
    for name, value in options.items():
        setattr(exp.train, name, value)
    return exp


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, `other` data of the same texts and more, and a finished run of four steps."""
    top = tmp_path_factory.mktemp("resume")
    exp = experiment()
    for name, utterances in (("data", 12), ("other", 18)):
        tones.make_corpus(top / f"{name}-corpus", utterances=utterances)
        prepare(exp, top / f"{name}-corpus", top / name)
    tokenizer(exp, top / "data", top / "run")
    train(exp, top / "data", top / "run", cpu=True)
    return top


@pytest.fixture
def run(top: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(top / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, logger="maya"):
        yield caplog


def newest(run: Path) -> ckpt.Checkpoint:
    return load_checkpoint(step_checkpoints(run)[-1][1], training=True)


def history(run: Path) -> list[dict]:
    training = newest(run).training
    assert training is not None
    return training["history"]


def test_another_tokenizer_of_the_same_size_is_refused(top: Path, run: Path, tmp_path: Path) -> None:
    exp = experiment(6)
    exp.tokenizer.seed += 1
    exp.tokenizer.lines_per_language = 3  # other texts: other pieces
    tokenizer(exp, top / "other", tmp_path / "new")
    shutil.copy(tmp_path / "new" / "tokenizer.model", run)
    before = (run / "best.pt").read_bytes()
    assert (run / "tokenizer.model").read_bytes() != (top / "run" / "tokenizer.model").read_bytes()
    words = r"step-0000004.pt was trained with another tokenizer \(20 pieces, digest \w{8}\) than .* --name"
    for data in ("data", "other"):
        with pytest.raises(MayaError, match=words):
            train(experiment(6), top / data, run, cpu=True)
    assert (run / "best.pt").read_bytes() == before and len(step_checkpoints(run)) == 2


@pytest.mark.parametrize("steps", [4, 3])
def test_finished_run_refuses_other_data(
    top: Path, run: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        MayaError, match=r"has ended at step 4 with other training data \(16 utt.*24 utt.*--name"
    ):
        train(experiment(steps), top / "other", run, cpu=True)
    assert "up to date" not in capsys.readouterr().out


def test_other_data_are_reported_and_the_epoch_restarts(
    top: Path, run: Path, warned: pytest.LogCaptureFixture
) -> None:
    before = newest(run).training
    assert before is not None
    train(experiment(5), top / "other", run, cpu=True)
    assert "THE TRAINING DATA DIFFER from those of step-0000004.pt: 16 utterances" in warned.text
    assert "24 utterances" in warned.text and "the dev set is not the one before" in warned.text
    segments = history(run)
    assert [s["step"] for s in segments] == [0, 4] and segments[1]["steps"] == 5
    assert [s["data"]["utterances"] for s in segments] == [16, 24]
    assert json.loads((run / "environment.json").read_text())["history"] == segments
    after = newest(run).training
    assert after is not None and after["position"][0] >= before["position"][0]


def test_moved_audio_is_the_same_data(top: Path, run: Path, warned: pytest.LogCaptureFixture) -> None:
    shutil.copytree(top / "data-corpus", run.parent / "moved")
    prepare(experiment(), run.parent / "moved", run.parent / "data2")
    train(experiment(), run.parent / "data2", run, cpu=True)
    assert "DIFFER" not in warned.text and "moved or written again" in warned.text
    assert newest(run).step == 4


def test_changed_text_is_other_data(top: Path, run: Path) -> None:
    shutil.copytree(top / "data-corpus", run.parent / "edited")
    manifest = run.parent / "edited" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0]["text"] = rows[0]["text"][::-1] + " a"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(experiment(), run.parent / "edited", run.parent / "data2")
    with pytest.raises(MayaError, match="other training data"):
        train(experiment(), run.parent / "data2", run, cpu=True)


def test_extended_cosine_schedule_is_reported(
    top: Path, run: Path, warned: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    train(experiment(6), top / "data", run, cpu=True)
    assert newest(run).step == 6 and "continuing at step 4 of 6" in capsys.readouterr().out
    assert "train.steps was 4 and is 6: the cosine now ends there" in warned.text
    assert [s["steps"] for s in history(run)] == [4, 6]
    train(experiment(5), top / "data", run, cpu=True)  # fewer than there are: nothing happens
    assert newest(run).step == 6 and "the run has ended at step 6" in capsys.readouterr().out


def test_extended_eden_run_equals_a_run_of_that_length(
    top: Path, tmp_path: Path, warned: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def eden(epochs: int) -> Experiment:
        return experiment(100, schedule="eden", eden=EdenConfig(warmup_steps=2.0), epochs=epochs, keep=9)

    runs = [tmp_path / "extended", tmp_path / "planned"]
    for folder in runs:
        folder.mkdir()
        shutil.copy(top / "run" / "tokenizer.model", folder)
    train(eden(2), top / "data", runs[0], cpu=True)
    first = newest(runs[0])
    out = capsys.readouterr().out
    assert f"step {first.step}/~{first.step}  epoch 2 of 2" in out and "step 1/100" not in out
    train(eden(4), top / "data", runs[0], cpu=True)
    out = capsys.readouterr().out
    assert f"continuing at step {first.step} of ~{2 * first.step} (epoch 2 of 4)" in out
    train(eden(4), top / "data", runs[1], cpu=True)
    a, b = (newest(folder) for folder in runs)
    assert a.step == b.step > first.step and not warned.records
    assert all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())


def replace(path: Path, content: bytes) -> None:
    """Replace the file by a new one, because tensors of the old one may be memory-mapped."""
    path.unlink()
    path.write_bytes(content)


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content = bytearray()
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "zeros":
        content[-4096:] = bytes(4096)
    else:
        tiny.flip_a_bit(content)
    replace(path, content)


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "bit"])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(
    top: Path, run: Path, damage: str, warned: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = newest(run)
    path = step_checkpoints(run)[-1][1]
    spoil(path, damage)
    with pytest.raises(ckpt.Damaged, match=r"step-0000004.pt is not a readable checkpoint: .*restore it"):
        load_checkpoint(path)
    (run / "stage-train.json").unlink()
    train(experiment(), top / "data", run, cpu=True)
    assert f"{path} is damaged" in warned.text and "goes back to step-0000002.pt" in warned.text
    assert "continuing at step 2 of 4" in capsys.readouterr().out
    again = newest(run)
    assert all(torch.equal(value, again.weights[name]) for name, value in whole.weights.items())
    assert path.with_name(path.name + ".damaged").exists()


def test_no_fresh_start_where_all_checkpoints_are_damaged(top: Path, run: Path) -> None:
    for _, path in step_checkpoints(run):
        spoil(path, "bit")
    (run / "stage-train.json").unlink()
    with pytest.raises(MayaError, match=r"none of its 2 training checkpoint\(s\) can be read, the newest"):
        train(experiment(), top / "data", run, cpu=True)
    assert len(step_checkpoints(run)) == 2 and (run / "best.pt").exists()


def test_flipped_bit_is_detected_or_harmless(run: Path) -> None:
    path = run / "best.pt"
    content, weights = path.read_bytes(), load_checkpoint(path).weights
    places = np.random.default_rng(0).integers(0, len(content), 60).tolist()
    noticed = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        replace(path, flipped)
        try:
            loaded = load_checkpoint(path).weights
        except ckpt.Damaged:
            noticed += 1
            continue
        assert all(torch.equal(value, weights[name]) for name, value in loaded.items()), place
    assert noticed > len(places) // 2


def test_averaging_names_damaged_inputs(top: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(run / "best.pt", "bit")
    spoil(step_checkpoints(run)[-1][1], "cut")
    average(experiment(), top / "data", run)
    out = capsys.readouterr().out
    assert "step-0000004.pt is not a readable checkpoint" in out and "the one before it is taken" in out
    assert "best.pt is not a readable checkpoint" in out and "left out of the choice" in out
    assert load_checkpoint(run / "averaged.pt").step == 2


def test_failed_validation_loses_no_step_and_is_repeated(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds at a step that is not due to be saved. Afterwards training continues normally."""
    run, real, failures = tmp_path / "run", loop.keep_best, []
    run.mkdir()
    shutil.copy(top / "run" / "tokenizer.model", run)
    exp = experiment(save_every=100)

    def broken(run: object, state: State, *rest: object) -> None:
        """A validation that fails twice at step 2 (the second time before any step) and once at step 4."""
        if failures.count(state.step) < (2 if state.step == 2 else 1):
            failures.append(state.step)
            raise MayaError("dev is broken")
        passed.append(1000.0)
        real(run, state, *rest)

    passed, seconds = [0.0], time.perf_counter  # a validation takes very long
    monkeypatch.setattr(time, "perf_counter", lambda: seconds() + sum(passed))
    monkeypatch.setattr(loop, "keep_best", broken)
    for step in (2, 2, 4):
        with pytest.raises(MayaError, match="dev is broken"):
            train(exp, top / "data", run, cpu=True)
        assert failures[-1] == step and step_checkpoints(run)[-1][0] == step
    train(exp, top / "data", run, cpu=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "valid"] == [2, 4]
    assert max(r["data_wait_max"] for r in rows if r["kind"] == "train") < 1000  # that was no wait for data
    a, b = newest(run), newest(top / "run")
    assert all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())


@pytest.mark.parametrize("during", ["keep_best", "save"])
def test_a_stop_while_validating_or_saving_is_safe(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    run, real = tmp_path / "run", getattr(loop, during)
    run.mkdir()
    shutil.copy(top / "run" / "tokenizer.model", run)

    def stopped(*args: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGHUP)
        return real(*args, **options)

    monkeypatch.setattr(loop, during, stopped)
    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(experiment(), top / "data", run, cpu=True)
    monkeypatch.undo()
    assert [step for step, _ in step_checkpoints(run)] == [2, 3] and not list(run.rglob("*.partial"))
    train(experiment(), top / "data", run, cpu=True)
    a, b = newest(run), newest(top / "run")
    assert all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())
    assert (run / "best.pt").exists()


def test_checkpoint_without_a_data_record(top: Path, run: Path, warned: pytest.LogCaptureFixture) -> None:
    """An earlier version wrote it. A message says that data cannot be compared, and training continues."""
    path, old = step_checkpoints(run)[-1][1], newest(run)
    assert old.training is not None
    del old.training["history"]
    (run / "validations.json").unlink()
    ckpt.save_checkpoint(path, old)
    train(experiment(5), top / "other", run, cpu=True)
    assert "does not record its training data" in warned.text and "DIFFER" not in warned.text
    assert newest(run).step == 5 and [s["data"]["utterances"] for s in history(run)] == [24]


def test_damaged_dev_audio_is_left_out_and_counted(
    tmp_path: Path, top: Path, warned: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(top / "data-corpus", tmp_path / "corpus")
    exp = experiment(2, samples_every=2)
    exp.data.max_skipped = 0.5
    prepare(exp, tmp_path / "corpus", tmp_path / "data")
    (tmp_path / "run").mkdir()
    shutil.copy(top / "run" / "tokenizer.model", tmp_path / "run")
    dev = [f"{language}-{i:03d}" for language in ("en", "hi") for i in (4, 10)]
    for name in dev[:2]:
        (tmp_path / "corpus" / f"{name}.wav").write_bytes(b"RIFF no more")
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    assert "(2 left out)" in capsys.readouterr().out and warned.text.count("left out: ") >= 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["skipped"] for r in rows if r["kind"] == "valid"] == [2]
    skipped = (tmp_path / "run" / "skipped.jsonl").read_text()
    assert all(json.loads(line)["id"] in dev[:2] for line in skipped.splitlines())

    # More than data.max_skipped allows: one sentence, after the save.
    (tmp_path / "corpus" / f"{dev[2]}.wav").unlink()
    exp = experiment(4, samples_every=0)
    exp.data.max_skipped = 0.5
    with pytest.raises(MayaError, match=r"3 utterances cannot be read \('.*max_skipped=0.5 allows"):
        train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    assert newest(tmp_path / "run").step == 4
    for name in dev:
        (tmp_path / "corpus" / f"{name}.wav").unlink(missing_ok=True)
    exp.data.max_skipped = 1.0
    with pytest.raises(MayaError, match="none of the 4 utterances of .*dev.parquet can be read; the first"):
        train(exp, tmp_path / "data", tmp_path / "run", cpu=True)


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_training_without_dev(
    top: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(top / "data", tmp_path / "data")
    (tmp_path / "data" / "dev.parquet").unlink()
    if kind == "empty":
        write_table(tmp_path / "data" / "dev.parquet", [])
    exp, run = experiment(2, samples_every=1), tmp_path / "run"
    run.mkdir()
    shutil.copy(top / "run" / "tokenizer.model", run)
    train(exp, tmp_path / "data", run, cpu=True)
    assert "there is no dev set" in capsys.readouterr().out and not (run / "best.pt").exists()
    decode(exp, tmp_path / "data", run)
    average(exp, tmp_path / "data", run)
    out = capsys.readouterr().out
    assert "has no dev set to choose on" in out and "last (step 2)" in out
    assert load_checkpoint(run / "averaged.pt").step == 2


def test_table_is_hashed_once(top: Path, tmp_path: Path) -> None:
    table, pieces = (
        Table.open(top / "data" / "train.parquet"),
        load_tokenizer(top / "run" / "tokenizer.model"),
    )
    utterances = Utterances.from_table(table, pieces, ("en", "hi"))
    first = describe_data(top / "data", tmp_path, table, utterances, 3)
    assert first.utterances == len(table) and first.digest == table.content_digest() != first.dev
    recorded = json.loads((tmp_path / "training_data.json").read_text())
    assert TrainingData.of(recorded) == first and "digest " + first.digest[:8] in str(first)
    (tmp_path / "training_data.json").write_text(json.dumps(recorded | {"digest": "taken"}))
    assert describe_data(top / "data", tmp_path, table, utterances, 3).digest == "taken"
    for content in ("", "[]", json.dumps(recorded | {"table": "another"})):
        (tmp_path / "training_data.json").write_text(content)
        assert describe_data(top / "data", tmp_path, table, utterances, 3) == first
