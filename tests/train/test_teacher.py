"""Heads that get something from outside before training: a teacher's frames, a bigram of the texts."""

import math
from pathlib import Path

import pytest
import torch

from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads import CTCConfig, DistillationConfig, HeadContext
from maya.heads.distillation import Distillation
from maya.recipes.experiment import Experiment
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import build, load_checkpoint, step_path
from tests import tiny

STEPS = 12


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, a tokenizer in `run`, and a finished training in it."""
    top = tmp_path_factory.mktemp("teacher")
    exp = tiny.experiment()
    tiny.prepare_run(exp, top, utterances=12)
    exp.train.steps = 4
    train(exp, top / "data", top / "run", cpu=True)
    return top


def run_folder(top: Path, name: str) -> Path:
    run = top / name
    run.mkdir()
    (run / "tokenizer.model").write_bytes((top / "run" / "tokenizer.model").read_bytes())
    return run


def short(exp: Experiment) -> Experiment:
    exp.train.steps = exp.train.valid_every = STEPS
    exp.train.save_every, exp.train.log_every = 5, 4
    return exp


def test_a_student_learns_a_teachers_frames_without_text(top: Path) -> None:
    """The teacher's loss falls, the teacher is not in the checkpoint, and a resumed training has its bits."""

    def experiment() -> Experiment:
        exp = short(tiny.experiment())
        dim = exp.model.encoder.d_model
        exp.model.heads = {"teacher": DistillationConfig(teacher=str(top / "run"), dim=dim)}
        exp.train.lr, exp.train.valid_every, exp.train.optimizer = 0.01, 0, "adamw"
        return exp

    whole, halves = run_folder(top, "distil-whole"), run_folder(top, "distil-halves")
    train(experiment(), top / "data", whole, cpu=True)
    with tiny.interrupted(after=6):
        train(experiment(), top / "data", halves, cpu=True)
    train(experiment(), top / "data", halves, cpu=True)
    a, b = (load_checkpoint(step_path(run, STEPS)) for run in (whole, halves))
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert sorted(n for n in a.weights if n.startswith("heads")) == [
        "heads.teacher.out.bias", "heads.teacher.out.weight"
    ]  # fmt: skip
    with pytest.raises(MayaError, match="call begin_training first"):
        build(a).head("teacher").losses(Encoded(torch.zeros(1, 2, 8), torch.tensor([2])), None, None)  # type: ignore[arg-type]


def test_a_wrong_width_is_named_before_the_first_step(top: Path) -> None:
    exp = short(tiny.experiment())
    exp.model.heads["teacher"] = DistillationConfig(teacher=str(top / "run"), dim=7)
    with pytest.raises(MayaError, match="set the head's dim to it, not to 7"):
        train(exp, top / "data", run_folder(top, "wrong-width"), cpu=True)


def test_the_distance_of_frames_at_another_rate() -> None:
    """Frames of the teacher at half the rate: each is compared with two of the student's. No padding."""
    head = Distillation(DistillationConfig(teacher="t", dim=3), dim=3)
    torch.nn.init.eye_(head.out.weight)
    torch.nn.init.zeros_(head.out.bias)
    goal = torch.randn(2, 4, 3)
    frames = goal.repeat_interleave(2, dim=1)
    frames[1, 4:] = float("nan")
    same = head.distance(
        Encoded(frames, torch.tensor([8, 4])), Encoded(goal, torch.tensor([4, 2]))
    )  # cos = 1 everywhere: only its term is left
    torch.testing.assert_close(same, torch.full((2,), math.log1p(math.exp(-1.0))))
    twice = head.distance(
        Encoded(frames.repeat(2, 1, 1), torch.tensor([8, 4] * 2)), Encoded(goal, torch.tensor([4, 2])), 2
    )
    torch.testing.assert_close(twice, same.repeat(2))


def test_mmi_trains_with_the_bigram_of_the_training_texts(top: Path) -> None:
    exp = short(tiny.experiment())
    exp.model.heads = {"ctc": CTCConfig(mmi_share=0.8, mmi_warmup=5)}
    run = run_folder(top, "mmi")
    train(exp, top / "data", run, cpu=True)
    checkpoint = load_checkpoint(step_path(run, STEPS))
    bigram = checkpoint.weights["heads.ctc.bigram"].exp()
    torch.testing.assert_close(bigram.sum(1), torch.ones(len(bigram)))
    assert bigram.max() > 0.5
    log = (run / "metrics.jsonl").read_text()
    assert "ctc_mmi_loss" in log and "NaN" not in log


def test_shares_of_mmi() -> None:
    head = CTCConfig(mmi_share=0.8, mmi_warmup=10).build(HeadContext(dim=4, labels=2, blank=2))
    assert head.part_weights(0) == {"loss": 1.0, "mmi": 0.0, "consistency": 0.0}
    assert head.part_weights(10)["mmi"] == 0.8 and head.part_weights(10)["loss"] == pytest.approx(0.2)
