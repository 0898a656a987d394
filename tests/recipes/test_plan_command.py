"""`maya plan`: report, JSON and errors. Also training within measured memory."""

import json
from pathlib import Path

import numpy as np
import pytest

from maya.data.plan import MemoryConfig, PlanConfig
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes import memory as memory_stage
from maya.recipes.cli import main
from maya.recipes.experiment_file import experiment_named
from maya.recipes.memory import plan_within_memory
from maya.recipes.plan import Setup
from maya.recipes.plan_text import plan_text
from tests import tones
from tests.tiny import experiment

TINY = ["--experiment", "tests.tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("plan")
    tones.make_corpus(top / "corpus")
    assert main(["prepare", *TINY, "--corpus", str(top / "corpus"), "--out", str(top / "data")]) == 0
    return top / "data"


def test_report_and_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    command = ["plan", *TINY, "--gpu", "l40s", "--gpus", "2", "--json", str(file), "--data", str(data)]
    assert main([*command, "--hours", "1000", "--price", "2.5", "--set", "train.accumulate=4"]) == 0
    out = capsys.readouterr().out
    expected_words = (
        "2 × NVIDIA L40S", "48 GB (published)", "encoder layers", "GFLOP per second of audio", "checkpointed",
        "average of the weights (fp64)", "largest batch, padded seconds", "one pass", "padding",
        "draws repeated", "hi", "core hours in any number of parts", "nothing of it was measured on this GPU",
    )  # fmt: skip
    for words in expected_words:
        assert words in out, words
    report = json.loads(file.read_text())
    assert report["config"]["name"] == "tests/tiny"
    shape, time = report["batch"], report["time"]
    per_utterance = sum(report["flops_per_audio_second"]["training"].values()) * shape["seconds"]
    expected = 4 * shape["utterances"] * per_utterance / (362e12 * 0.4)
    assert time["step_seconds"] == pytest.approx(expected)
    assert time["hours_per_day"] == pytest.approx(
        time["padded_seconds_per_step"] / time["step_seconds"] * 24, rel=1e-6
    )
    assert time["days_per_pass"] == pytest.approx(1000 / time["hours_per_day"])
    needed = report["resources"]
    assert needed["gpu_hours"] == pytest.approx(time["steps"] * time["step_seconds"] * 2 / 3600)
    assert needed["price"] == pytest.approx(2.5 * needed["gpu_hours"])
    assert needed["audio_gb"] == pytest.approx(63.0) and needed["utterances"] == pytest.approx(
        3.6e6 / shape["seconds"]
    )
    side = report["memory"]["no checkpointing"]
    parts = sum(side["states"].values()) + sum(side["kept"].values()) + side["beside_kept"]
    assert side["total"] == pytest.approx(parts)
    assert set(report["data"]["hours"]) == {"en", "hi"} and report["data"]["batches_too_large"] == 0
    assert report["data"]["batches_per_epoch"] == 2 * report["data"]["steps_per_epoch"]
    assert plan_text(report, Setup(gpu="l40s", gpus=2), *_model(report)).count("\n") > 40


def test_run_shows_the_plan_on_its_page(data: Path, tmp_path: Path) -> None:
    run = ["--data", str(data), "--run-dir", str(tmp_path / "run")]
    assert main(["tokenizer", *TINY, *run]) == 0
    assert main(["plan", *TINY, *run, "--gpus", "2"]) == 0
    stats = json.loads((tmp_path / "run/plan.json").read_text())
    assert set(stats["hours"]) == {"en", "hi"} and stats["batches"] == 2 * stats["steps"]
    assert "utterances drawn" in (tmp_path / "run/data.html").read_text()


def _model(report: dict) -> tuple:
    from maya.models.sizing import gpu_named

    exp = experiment()
    exp.model.vocab_size = 20
    return gpu_named("l40s"), exp.model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "h300"], "unknown GPU 'h300'"),
        (["--gpus", "0"], "--gpus must be a positive number, not 0"),
        (["--utilisation", "1.5"], "--utilisation is a share"),
        (["--seconds", "nan"], "--seconds must be a positive number"),
        (["--memory-gb", "0.5"], "one utterance of 12.0 s with 48 tokens needs"),
        (["mini"], "name the experiment once"),
    ],
)
def test_bad_arguments_give_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *TINY, *arguments]) == 1
    assert words in capsys.readouterr().err


def test_experiment_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.chdir(repo)
    name = "fastconformer_tdt_ctc_1b"
    assert experiment_named(name) == repo / "egs" / "indic12" / f"{name}.py"
    with pytest.raises(MayaError, match="there is no experiment 'nothing'; egs has .*mini"):
        experiment_named("nothing")
    with pytest.raises(MayaError, match="there is no experiment 'minni'; did you mean 'mini'?"):
        experiment_named("minni")
    for corpus in ("a", "b"):
        (tmp_path / "egs" / corpus).mkdir(parents=True)
        (tmp_path / "egs" / corpus / "base.py").write_text("def experiment(): ...")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MayaError, match="'base' is the name of 2 experiments"):
        experiment_named("base")


class _Data:
    durations, token_counts = np.array([2.0, 9.0]), np.array([3, 40])


class _Place:
    device, mixed_precision = "cpu", "no"


def test_resumed_run_keeps_its_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict] = []

    def measured(plan: PlanConfig, *_: object, **settings: object) -> PlanConfig:
        calls.append(settings)
        terms = MemoryConfig(limit=2.0, max_bytes=1.8e9, fixed=5e8, frame=1e5 * len(calls))
        return PlanConfig(max_seconds=plan.max_seconds, memory=terms)

    monkeypatch.setattr(memory_stage, "with_memory", measured)
    exp = experiment()
    assert plan_within_memory(exp, _Data, tmp_path, _Place) is exp.data.plan  # type: ignore[arg-type]
    exp.data.plan.memory.limit = 2.0
    exp.data.speed_perturb = (0.9, 1.0)
    first = plan_within_memory(exp, _Data, tmp_path, _Place)  # type: ignore[arg-type]
    assert first.memory.frame == 1e5 and first.max_seconds == exp.data.plan.max_seconds
    assert calls[0]["seconds"] == pytest.approx(10.0) and calls[0]["tokens"] == 40
    assert exp.data.plan.memory.max_bytes is None  # the experiment itself stays as it was given
    assert plan_within_memory(exp, _Data, tmp_path, _Place).memory.frame == 2e5  # type: ignore[arg-type]
    monkeypatch.setattr(memory_stage, "step_checkpoints", lambda run: [(1, run)])
    again = plan_within_memory(exp, _Data, tmp_path, _Place)  # type: ignore[arg-type]
    assert again.memory.frame == 2e5 and len(calls) == 2
    (tmp_path / "memory.json").write_text("{")
    with pytest.raises(MayaError, match="memory.json is damaged"):
        plan_within_memory(exp, _Data, tmp_path, _Place)  # type: ignore[arg-type]


def test_utterances_that_training_leaves_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An utterance above data.max_seconds is in no batch, and may be longer than the plan's cap."""
    run, file = ["--run-dir", str(tmp_path / "run")], tmp_path / "plan.json"
    assert main(["tokenizer", *TINY, "--data", str(data), *run]) == 0
    durations = Table.open(part_path(data, "train")).durations
    longest = float(np.median(durations))
    limits = ["--set", f"data.max_seconds={longest}", "--set", f"data.plan.max_seconds={longest}"]
    command = ["plan", *TINY, "--data", str(data), "--gpus", "1", "--json", str(file), *limits]
    for options in ([], run):
        capsys.readouterr()
        assert main([*command, *options]) == 0
        report = json.loads(file.read_text())["data"]
        assert report["left_out"] == (durations > longest).sum() > 0
        assert report["utterances"] + report["left_out"] == len(durations)
        assert f"{report['utterances']}, {report['left_out']} left out" in capsys.readouterr().out
        assert main([*command, *options, "--set", "data.max_seconds=0.01"]) == 1
        assert "training would leave out every utterance" in capsys.readouterr().err


def test_a_language_model_as_head_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--experiment", "egs.indic12.speech_llm"]) == 1
    assert "does not know the size of the head llm" in capsys.readouterr().err
