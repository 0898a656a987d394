"""Which means of the weights there are to choose from, and that dev chooses."""

from pathlib import Path

import pytest
import torch
from torch import nn

from maya.errors import MayaError
from maya.recipes import average as stage
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from maya.train import checkpoint as ckpt
from maya.train.averaging import RunningAverage
from tests import tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose only weight is its step, sampled every 10 steps and kept at 100, 200 (the best) and 300."""
    tokenizer = train_tokenizer({"en": ["ab ba abba", "a b"]}, TokenizerConfig(vocab_size=8))
    running = RunningAverage()
    for step in range(10, 301, 10):
        running.update({"w": torch.tensor([float(step)])})
        if step % 100 == 0:
            made = ckpt.Checkpoint(
                model_config=tiny.experiment().model, tokenizer=tokenizer, step=step, notes={},
                weights={"w": torch.tensor([float(step)])}, training={"average": running.state_dict()},
            )  # fmt: skip
            ckpt.save_checkpoint(ckpt.step_path(tmp_path, step), made)
            if step == 200:
                ckpt.save_checkpoint(tmp_path / "best.pt", made)
    return tmp_path


def offered(run: Path, ends: int) -> dict[str, float]:
    found = ckpt.step_checkpoints(run)
    last = ckpt.load_checkpoint(found[-1][1], training=True)
    return {c.name: float(c.weights["w"]) for c in stage.candidates(run, found, last, ends)}


def test_candidates_are_the_last_the_best_and_the_means_between_checkpoints(run: Path) -> None:
    one = {
        "last (step 300)": 300.0,
        "best (step 200)": 200.0,
        "mean of steps 200–300": 255.0,  # of 210, 220, ..., 300
        "mean of steps 100–300": 205.0,
    }
    assert offered(run, 1) == one
    assert offered(run, 2) == one | {"mean of steps 100–200": 155.0}
    assert offered(run, 9) == offered(run, 2)


def test_a_stretch_by_name_needs_its_two_ends_only(run: Path) -> None:
    found = ckpt.step_checkpoints(run)
    assert float(stage.stretch(found, 300, 200).weights["w"]) == 205.0
    assert stage.stretch(found, 200, 100).step == 200
    assert float(stage.stretch(found, None, 300).weights["w"]) == 155.0  # from the first sample on
    ckpt.step_path(run, 200).unlink()
    assert float(stage.stretch(ckpt.step_checkpoints(run), 300, 200).weights["w"]) == 205.0
    for step, avg in ((300, 150), (250, 50), (300, 400), (300, 0), (200, 100)):
        with pytest.raises(MayaError, match="kept are those of 100, 300"):
            stage.stretch(ckpt.step_checkpoints(run), step, avg)


def test_dev_chooses_and_its_scores_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def validation(*_: object) -> object:
        def validate(model: Model) -> dict[str, float]:
            error = abs(float(model.w.detach()) - 150.0)  # the mean of steps 100–200 is the nearest
            return {"error": error, "loss": error, "wer": error, "cer": error}

        return validate

    monkeypatch.setattr(stage, "HybridModel", Model)
    monkeypatch.setattr(stage, "dev_validation", validation)
    stage.average(tiny.experiment(), run, run)
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert chosen.notes["weights"] == "best (step 200)" and chosen.step == 200
    stage.average(tiny.experiment(), run, run, ends=2)
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert chosen.notes["weights"] == "mean of steps 100–200" and float(chosen.weights["w"]) == 155.0
    assert len(chosen.notes["dev"]) == 5 and chosen.notes["dev"]["last (step 300)"]["wer"] == 150.0
    stage.average(tiny.experiment(), run, run, step=300, avg=100)
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert chosen.notes["weights"] == "mean of steps 200–300" and chosen.step == 300
