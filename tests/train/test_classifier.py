"""A classifier on a frozen encoder, alone and beside CTC: trained, validated, resumed and averaged."""

import json
import shutil
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import ClassifyConfig, Head, HeadConfig, HeadContext, LossStep
from maya.recipes.average import average
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from maya.train.heads import noted_steps, read_heads, trained_names
from tests import tiny, tones

STEPS = 12
CASES = ("alone", "beside CTC")


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data with emotions, and a finished run of a recogniser, `start`."""
    top = tmp_path_factory.mktemp("classifier")
    tones.make_corpus(top / "corpus", utterances=12)
    manifest = top / "corpus" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        if number != 3:  # one utterance has no label
            row["labels"] = {"emotion": "glad" if row["language"] == "en" else "sad"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    exp = tiny.experiment()
    prepare(exp, top / "corpus", top / "data")
    tokenizer(exp, top / "data", top / "start")
    exp.train.steps = 2
    train(exp, top / "data", top / "start", cpu=True)
    return top


def experiment(top: Path, case: str) -> Experiment:
    exp = tiny.experiment()
    ctc = exp.model.heads["ctc"]
    ctc.weight = 1.0
    exp.model.heads = {"mood": ClassifyConfig(label="emotion", classes=("glad", "sad"), weight=0.5)}
    if case != "alone":
        exp.model.heads["ctc"] = ctc
    exp.model.encoder.dropout = exp.model.noise.probability = 0.1  # type: ignore[attr-defined]
    exp.model.specaugment.time_masks = 1
    exp.train.init_from, exp.train.freeze = str(top / "start"), ("encoder",)
    exp.train.steps, exp.train.save_every, exp.train.valid_every = STEPS, 4, 4
    exp.train.log_every, exp.train.samples_every, exp.train.lr = 4, 4, 0.1
    return exp


def run_of(top: Path, case: str, folder: Path, stop: int = 0) -> Path:
    """A finished run in `folder`. With `stop` it is interrupted once and resumed."""
    folder.mkdir(parents=True)
    tokenizer(experiment(top, case), top / "data", folder)
    if stop:
        with tiny.interrupted(after=stop):
            train(experiment(top, case), top / "data", folder, cpu=True)
        torch.rand(100)
    train(experiment(top, case), top / "data", folder, cpu=True)
    return folder


@pytest.fixture(scope="module")
def runs(top: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {case: run_of(top, case, folder / case.replace(" ", "_")) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_head_learns_and_optimizer_has_no_encoder_parameters(
    top: Path, runs: dict[str, Path], case: str
) -> None:
    start, end = (
        load_checkpoint(top / "start"),
        load_checkpoint(step_checkpoints(runs[case])[-1][1], training=True),
    )
    encoder = {name: value for name, value in end.weights.items() if name.startswith("encoder.")}
    assert encoder and all(torch.equal(value, start.weights[name]) for name, value in encoder.items())
    assert end.training is not None
    groups = end.training["optimizer"]["param_groups"]
    assert not any(group["encoder"] for group in groups)
    learning = sum(len(group["params"]) for group in groups)
    of_heads = {"alone": 2, "beside CTC": 2 + 2}[case]
    assert learning == len(end.training["optimizer"]["state"]) == of_heads + 1  # and the language embedding

    rows = [json.loads(line) for line in (runs[case] / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row["kind"] == "train"]
    assert all("lr" in row and "encoder_lr" not in row for row in logged)
    assert logged[-1]["mood_loss"] < 0.95 * logged[0]["mood_loss"]
    phase = next(row for row in rows if row["kind"] == "phase")
    assert phase["encoder"] == "frozen"


@pytest.mark.parametrize("case", CASES)
def test_validation_and_best_weights(runs: dict[str, Path], case: str) -> None:
    rows = [json.loads(line) for line in (runs[case] / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["kind"] == "valid"]
    assert [row["step"] for row in valid] == [4, 8, 12]
    for row in valid:
        assert {"mood_accuracy", "mood_accuracy_glad", "mood_accuracy_sad"} <= row.keys()
        macro = (row["mood_accuracy_glad"] + row["mood_accuracy_sad"]) / 2
        assert row["mood_accuracy"] == pytest.approx(macro)
        assert row["error"] == (1 - row["mood_accuracy"] if case == "alone" else row["cer"])
    best = load_checkpoint(runs[case] / "best.pt")
    assert best.notes["valid"]["error"] == min(row["error"] for row in valid)
    assert best.notes["heads"]["mood"] == {
        "steps": best.step,
        "accuracy": best.notes["valid"]["mood_accuracy"],
    }
    samples = [json.loads(line) for line in (runs[case] / "samples.jsonl").read_text().splitlines()]
    assert {row["head"] for row in samples} == {"mood" if case == "alone" else "ctc"}
    if case == "alone":
        assert all(row["ref"] in ("glad", "sad", "") and row["hyp"] in ("glad", "sad") for row in samples)


@pytest.mark.parametrize("case", CASES)
def test_interrupted_training_equals_uninterrupted_training(
    top: Path, runs: dict[str, Path], tmp_path: Path, case: str
) -> None:
    resumed = run_of(top, case, tmp_path / "run", stop=6)
    a, b = (load_checkpoint(step_checkpoints(run)[-1][1], training=True) for run in (runs[case], resumed))
    assert all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())
    assert a.training is not None and b.training is not None
    for number, state in a.training["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg"], b.training["optimizer"]["state"][number]["exp_avg"])


@pytest.mark.parametrize("case", CASES)
def test_average_is_selected_by_accuracy_and_noted(
    top: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    shutil.copytree(runs[case], tmp_path / "run")
    average(experiment(top, case), top / "data", tmp_path / "run")
    assert "mood accuracy" in capsys.readouterr().out
    chosen = load_checkpoint(tmp_path / "run" / "averaged.pt")
    heads = ("mood",) if case == "alone" else ("mood", "ctc")
    assert trained_names(chosen) == heads and noted_steps(chosen) == dict.fromkeys(heads, chosen.step)
    assert read_heads(chosen).heads == heads[1:]
    scores = chosen.notes["dev"].values()
    assert all("mood_accuracy" in row and ("cer" in row) == (case != "alone") for row in scores)
    assert (
        chosen.notes["heads"]["mood"]["accuracy"] == max(row["mood_accuracy"] for row in scores)
        or case != "alone"
    )


def test_data_without_the_label_is_refused_before_training(top: Path, tmp_path: Path) -> None:
    exp = experiment(top, "alone")
    exp.model.heads["mood"] = ClassifyConfig(label="accent", classes=("north", "south"))
    shutil.copytree(top / "start", tmp_path / "run")
    with pytest.raises(MayaError, match=r"head mood needs the label 'accent', and no utterance of"):
        train(exp, top / "data", tmp_path / "run", cpu=True)


def test_text_heads_need_a_greedy_method_before_training(top: Path, tmp_path: Path) -> None:
    """Validation decodes them: better refused now than at the first validation."""

    @config
    class SilentConfig(HeadConfig):
        writes_text: ClassVar[bool] = True
        kind: Literal["test_silent"] = "test_silent"

    class Silent(Head, config=SilentConfig):
        def __init__(self, cfg: SilentConfig, context: HeadContext) -> None:
            super().__init__()
            self.cfg, self.out = cfg, torch.nn.Linear(context.dim, 1)

        def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
            return {"loss": self.out(encoded.frames).mean((1, 2))}

    exp = tiny.experiment()
    exp.model.heads = {"silent": SilentConfig()}
    run = tmp_path / "run"
    tokenizer(exp, top / "data", run)
    with pytest.raises(MayaError, match="no greedy decoding method reads a head of kind 'test_silent'"):
        train(exp, top / "data", run, cpu=True)
    assert step_checkpoints(run) == [] and not (run / "metrics.jsonl").exists()
