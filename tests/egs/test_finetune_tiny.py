"""The flagship schedule at small scale, on real speech: a converted encoder learns a new vocabulary."""

import json
from pathlib import Path

import pytest
import torch

from egs.indic12 import finetune_tiny
from maya.convert.nemo.load import import_nemo
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint, step_path

LANGUAGES = ("hi", "te")
FREEZE, RAMP, STEPS = 4, 3, 8


def _corpus(shared: Path, folder: Path) -> Path:
    """Short utterances of two languages from the real speech, read in place."""
    source, rows, taken = shared / "corpora" / "indic12", [], dict.fromkeys(LANGUAGES, 0)
    for line in (source / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        code = row["language"]
        if code in taken and taken[code] < 12 and 2.0 < row["duration"] < 5.0:
            split = ("train", "train", "train", "train", "dev", "test")[taken[code] % 6]
            rows.append(row | {"audio": str(source / row["audio"]), "split": split})
            taken[code] += 1
    folder.mkdir()
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return folder


def _experiment(start: Path) -> Experiment:
    exp = finetune_tiny.experiment()
    exp.languages, exp.tokenizer.vocab_size = LANGUAGES, 400
    exp.prepare.max_dropped_fraction = 0.5
    exp.train.init_from, exp.train.steps, exp.train.warmup_steps = str(start), STEPS, 2
    exp.train.freeze_steps, exp.model.heads["ctc"].ramp_steps = FREEZE, RAMP
    exp.train.save_every, exp.train.valid_every, exp.train.log_every = 1, STEPS, 1
    exp.train.keep, exp.train.accumulate, exp.data.plan.max_seconds = 99, 1, 20.0
    return exp


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("finetune")
    save_checkpoint(top / "start.pt", import_nemo(shared / "golden" / "nemo" / "tiny.nemo").checkpoint)
    exp = _experiment(top / "start.pt")
    prepare(exp, _corpus(shared, top / "corpus"), top / "data")
    tokenizer(exp, top / "data", top / "run")
    train(exp, top / "data", top / "run", cpu=True)
    return top / "run"


def test_log_names_each_phase_at_its_step(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    phases = {
        (r["step"], name, r[name])
        for r in rows
        if r["kind"] == "phase"
        for name in ("encoder", "heads", "ctc")
        if name in r
    }
    assert phases == {
        (0, "encoder", "frozen"), (0, "heads", "warming up"), (0, "ctc", "rising"), (2, "heads", "learning"),
        (RAMP, "ctc", "full"), (FREEZE, "encoder", "warming up"), (FREEZE + 2, "encoder", "learning"),
    }  # fmt: skip
    train_rows = [r for r in rows if r["kind"] == "train"]
    assert [r["encoder_lr"] > 0 for r in train_rows] == [s >= FREEZE for s in range(STEPS)]
    assert [r["weight_ctc"] for r in train_rows[: RAMP + 1]] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    valid = [r for r in rows if r["kind"] == "valid"][-1]
    assert {f"wer_{code}" for code in LANGUAGES} <= valid.keys()
    assert {f"language_accuracy_{code}" for code in LANGUAGES} <= valid.keys()


def test_encoder_equals_the_archive_until_it_is_unfrozen(run: Path, shared: Path) -> None:
    archive = import_nemo(shared / "golden" / "nemo" / "tiny.nemo").checkpoint
    frozen, last = (load_checkpoint(step_path(run, s)) for s in (FREEZE, STEPS))
    encoder = [name for name in archive.weights if name.startswith("encoder.")]
    assert all(torch.equal(archive.weights[n], frozen.weights[n]) for n in encoder)
    moved = [n for n in encoder if not torch.equal(archive.weights[n], last.weights[n])]
    assert any("running_mean" in n for n in moved) and any(n.endswith("linear1.weight") for n in moved)
    assert last.tokenizer.model_bytes != archive.tokenizer.model_bytes
    assert last.model_config.vocab_size == last.tokenizer.vocab_size != archive.tokenizer.vocab_size
