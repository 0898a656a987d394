"""The training loop on tones: exact resume, clean stops, clear errors, learning."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.errors import MayaError
from maya.heads import TransducerConfig
from maya.models.speech_model import SpeechModel
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from tests import tiny, tones


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("tones"))


def _run(data: Path, to: Path, exp: Experiment | None = None) -> Path:
    """Train a copy of the prepared run folder."""
    if not to.exists():
        shutil.copytree(data / "run", to)
    train(exp or tiny.experiment(), data / "data", to, cpu=True)
    return to


def _losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"]) for r in rows if r["kind"] == "train"]


def test_resumed_training_equals_uninterrupted_training(data: Path, tmp_path: Path) -> None:
    def exp() -> Experiment:
        exp = tiny.experiment()  # everything random on: dropout, SpecAugment, dither, language dropout, omega
        exp.model.encoder.dropout = 0.1
        exp.model.specaugment.time_masks = 2
        exp.model.language_dropout = 0.3
        exp.model.head("transducer", TransducerConfig).omega = 0.3
        exp.model.features.dither = 1e-5
        exp.data.speed_perturb = (0.9, 1.0, 1.1)
        exp.train.log_every = 1
        return exp

    straight = _run(data, tmp_path / "straight", exp())

    with tiny.interrupted(after=7):
        _run(data, tmp_path / "stopped", exp())
    torch.rand(100)  # the process that continues has drawn other random numbers
    continued = _run(data, tmp_path / "stopped", exp())

    assert _losses(straight) == _losses(continued)
    a, b = (load_checkpoint(step_checkpoints(r)[-1][1], training=True) for r in (straight, continued))
    for name, value in a.weights.items():
        assert torch.equal(value, b.weights[name]), name
    assert a.training is not None and b.training is not None
    assert a.training["position"] == b.training["position"]
    for name, value in a.training["average"]["mean"].items():
        assert torch.equal(value, b.training["average"]["mean"][name]), name


def test_finished_run_is_unchanged_and_another_experiment_is_refused(
    data: Path, tmp_path: Path, capsys
) -> None:  # noqa: ANN001
    run = _run(data, tmp_path / "run")
    capsys.readouterr()
    _run(data, run)
    assert "up to date" in capsys.readouterr().out
    other = tiny.experiment()
    other.train.lr = 1e-4
    with pytest.raises(MayaError, match=r"belongs to another experiment: train\.lr was 0\.003, now 0\.0001"):
        _run(data, run, other)
    chatty = tiny.experiment()
    chatty.train.log_every = 1  # changes nothing that is learnt
    _run(data, run, chatty)


def test_nan_loss_stops_and_names_the_utterances(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SpeechModel.losses

    def broken(self, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202
        out = real(self, *args, **kwargs)
        if self.training:
            out.total = out.total.clone()
            out.total[0] = float("nan")
        return out

    monkeypatch.setattr(SpeechModel, "losses", broken)
    with pytest.raises(MayaError, match="not a number at step 0"):
        _run(data, tmp_path / "run")
    assert len((tmp_path / "run" / "not-a-number.txt").read_text().splitlines()) == 1
    assert not step_checkpoints(tmp_path / "run")


def test_text_too_long_for_its_audio_is_reported_and_skipped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file, with no line of the log for each of them."""
    real = SpeechModel.losses

    def infeasible(self, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202
        out = real(self, *args, **kwargs)
        out.total = torch.where(torch.arange(args[1].size) == 0, torch.inf, out.total)
        return out

    monkeypatch.setattr(SpeechModel, "losses", infeasible)
    run = _run(data, tmp_path / "run")
    skipped = [line.split("\t")[1] for line in (run / "infeasible.txt").read_text().splitlines()]
    assert len(skipped) >= 12
    printed = "".join(capsys.readouterr())
    assert not any(utterance in printed for utterance in skipped)
    assert all(loss < 1e4 for _, loss in _losses(run))
    weights = load_checkpoint(step_checkpoints(run)[-1][1]).weights
    assert all(torch.isfinite(v).all() for v in weights.values() if v.is_floating_point())


def test_run_folder_describes_the_run(data: Path, tmp_path: Path) -> None:
    run = _run(data, tmp_path / "run")
    for name in ("config.json", "environment.json", "git.diff", "metrics.jsonl", "best.pt", "dropped.jsonl"):
        assert (run / name).exists(), name
    assert any((run / "tensorboard").iterdir())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [r for r in rows if r["kind"] == "train"][-1]
    assert (
        last["step"] == 12
        and {"share_work", "share_data", "share_forward", "seconds_per_step"} <= last.keys()
    )
    valid = [r for r in rows if r["kind"] == "valid"][-1]
    assert {"loss", "wer", "cer", "wer_en", "wer_hi"} <= valid.keys()
    assert not list(run.rglob("*.partial"))


def overfit_experiment() -> Experiment:
    exp = tiny.experiment()
    exp.model.encoder.d_model, exp.model.encoder.n_heads = 64, 4
    exp.train.steps, exp.train.warmup_steps, exp.train.lr = 220, 20, 5e-3
    exp.train.valid_every = exp.train.save_every = 220
    exp.train.log_every = 10
    exp.data.plan.max_utterances = 8
    return exp


def test_eight_utterances_are_overfitted(tmp_path: Path) -> None:
    """Training, validation, decoding and scoring all report no errors on eight utterances."""
    tones.make_corpus(tmp_path / "corpus", utterances=4)
    rows = [json.loads(r) for r in (tmp_path / "corpus" / "manifest.jsonl").read_text().splitlines()]
    for copy, split in ((0, "train"), (1, "dev"), (2, "test")):
        for r in rows[:8]:
            rows.append(r | {"id": f"{r['id']}-{copy}", "split": split})
    (tmp_path / "corpus" / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[8:]))
    exp = overfit_experiment()
    exp.prepare.max_dropped_fraction = 0.0
    prepare(exp, tmp_path / "corpus", tmp_path / "data")
    tokenizer(exp, tmp_path / "data", tmp_path / "run")
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    for method in ("transducer", "ctc"):
        exp.decode.method = method
        decode(exp, tmp_path / "data", tmp_path / "run", force=True)
        report = score(tmp_path / "run", force=True).report
        assert report is not None and report.pooled.words.rate == 0.0, method


GOLDEN = Path(__file__).parent.parent / "golden" / "losses_50.json"


def test_first_fifty_losses_equal_the_golden_values(data: Path, tmp_path: Path) -> None:
    """Refactoring must not change the losses. After an intended change, delete the file to record anew."""
    exp = tiny.experiment()
    exp.train.steps, exp.train.log_every = 50, 1
    exp.train.valid_every = exp.train.save_every = 50
    losses = [loss for _, loss in _losses(_run(data, tmp_path / "run", exp))]
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps([round(x, 6) for x in losses]) + "\n")
        pytest.fail(f"recorded {GOLDEN}; commit it")
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=2e-3)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("method", "step"), [("auto", 2), ("ctc", 2), ("transducer", 6)])
def test_best_checkpoint_is_chosen_by_the_decoding_head(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any, step: int
) -> None:
    """While only CTC is trained, validation decodes with it. Those errors do not count if decode.method is
    the transducer."""

    def validate(model: SpeechModel, heads: tuple[str, ...]) -> dict[str, float]:
        return {"error": 0.9 if "transducer" in heads else 0.1, "loss": 1.0}

    monkeypatch.setattr("maya.recipes.train.dev_validation", lambda *_, **__: validate)
    exp = tiny.experiment()
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 8, 2, 4
    exp.model.heads["transducer"].first_step = 4
    exp.decode.method = method
    run = _run(data, tmp_path / "run", exp)
    best = load_checkpoint(run / "best.pt")
    assert best.step == step and best.notes["valid"]["error"] == (0.9 if step == 6 else 0.1)
    assert best.notes["trained"] == (["transducer", "ctc"] if step == 6 else ["ctc"])
