"""Training from step 25 on equals training that was never stopped: every head, one process and two, DDP and
FSDP2. Of a run that was killed the same remains: its folder up to the last checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.encoders import LaCTConfig
from maya.heads import ClassifyConfig, CTCConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.average import average
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.checkpoint import load_checkpoint, step_path
from tests import tiny, tiny_zipformer_training, tones
from tests.pair import Pair

STOP, STEPS = 25, 50


def every_head() -> SpeechModelConfig:
    """A model with each kind of head and of transducer, and random decisions in all parts. The language model
    is missing: it brings a tokenizer of its own, so no other text head stands beside it."""
    cfg = tiny.experiment().model
    encoder: Any = cfg.encoder
    encoder.dropout, encoder.conv_norm = 0.1, "batch_norm"
    cfg.specaugment.time_masks, cfg.specaugment.freq_masks = 2, 2
    cfg.language_dropout = 0.3
    for kind in ("rnnt", "pruned"):
        others = tiny.hybrid(transducer=kind, attention_weight=0.3, language_id_weight=0.1).heads
        cfg.heads |= {kind if name == "transducer" else name: head for name, head in others.items()}
    cfg.heads["ctc"] = CTCConfig(weight=0.3, consistency_weight=0.1, dropout=0.1)
    cfg.heads["mood"] = ClassifyConfig(label="emotion", classes=("glad", "sad"), weight=0.2)
    return cfg


def experiment(kind: str) -> Experiment:
    exp = tiny_zipformer_training.experiment() if kind == "zipformer" else tiny.experiment()
    if kind == "rows":  # two utterances of each speaker in a row, with what the fast weights have learnt
        sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "fast_heads": 2, "ff_dim": 48}
        exp.model.encoder = LaCTConfig(**sizes, subsampling_channels=8, subsampling_factor=4, dropout=0.1)
        exp.data.plan.same_speaker = 2
    elif kind != "zipformer":
        exp.model = every_head()
    exp.train.steps, exp.train.save_every, exp.train.valid_every = STEPS, STOP, 2 * STEPS
    exp.train.log_every, exp.train.average_every, exp.train.keep = 1, 5, 9
    exp.train.threads, exp.data.num_workers = 1, 0
    exp.data.plan.max_utterances = 4 if kind == "rows" else 2
    return exp


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data with emotions, and a folder `run` with a tokenizer."""
    top = tmp_path_factory.mktemp("exact")
    tones.make_corpus(top / "corpus", utterances=12)
    manifest = top / "corpus" / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        row["labels"] = {"emotion": "glad" if row["language"] == "en" else "sad"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(experiment(""), top / "corpus", top / "data")
    tokenizer(experiment(""), top / "data", top / "run")
    return top


def _train(_: int, exp: Experiment, data: Path, run: Path) -> None:
    train(exp, data / "data", run, cpu=True)


def losses(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if "loss" in k or k == "grad_norm"}
        for row in rows
        if row["kind"] == "train"
    ]


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize(
    ("kind", "parallel"),
    [
        ("heads", "one"),
        ("heads", "fsdp"),
        ("rows", "ddp"),
        pytest.param("rows", "fsdp", marks=pytest.mark.slow),
        pytest.param("heads", "ddp", marks=pytest.mark.slow),
        pytest.param("zipformer", "ddp", marks=pytest.mark.slow),
        pytest.param("zipformer", "fsdp", marks=pytest.mark.slow),
    ],
)
def test_25_steps_twice_equal_50(kind: str, parallel: Any, data: Path, tmp_path: Path, pair: Pair) -> None:
    exp, runs = experiment(kind), [tmp_path / "straight", tmp_path / "resumed"]
    exp.train.parallel = "ddp" if parallel == "one" else parallel
    for run in runs:
        shutil.copytree(data / "run", run)
        if run == runs[1]:
            (run / "checkpoints").mkdir()
            begun = step_path(runs[0], STOP)
            (shutil.copytree if begun.is_dir() else shutil.copy)(begun, step_path(run, STOP))
        if parallel == "one":
            _train(0, exp, data, run)
        else:
            pair.run(_train, exp, data, run)
    assert step_path(runs[1], STEPS).is_dir() is (parallel == "fsdp")
    assert losses(runs[1]) == losses(runs[0])[STOP:] and len(losses(runs[0])) == STEPS
    a, b = (load_checkpoint(step_path(run, STEPS), training=True) for run in runs)
    start = load_checkpoint(step_path(runs[0], STOP))
    assert same(a.weights, b.weights) and same(a.training, b.training)
    moved = sum(not torch.equal(v, start.weights[k]) for k, v in a.weights.items())
    assert moved > 0.9 * len(a.weights)


@pytest.fixture(scope="module")
def spread(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on two processes with FSDP2."""
    pair, run = Pair(), tmp_path_factory.mktemp("spread") / "run"
    shutil.copytree(data / "run", run)
    pair.run(_train, few_steps(4, "fsdp"), data, run)
    pair.close()
    return run


def few_steps(steps: int, parallel: Any) -> Experiment:
    exp = tiny.experiment()
    exp.train.steps, exp.train.save_every, exp.train.valid_every = steps, 2, 2
    exp.train.log_every, exp.train.average_every, exp.train.samples_every = 1, 1, 2
    exp.train.warmup_steps, exp.train.keep, exp.train.parallel = 0, 2, parallel
    return exp


@pytest.mark.xdist_group("pair")
def test_a_sharded_checkpoint_serves_one_process_and_back(
    data: Path, spread: Path, tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(spread, run)
    assert step_path(run, 4).is_dir() and (run / "best.pt").is_file() and not list(run.rglob("*.partial"))
    before = load_checkpoint(step_path(run, 4), training=True)
    floating = {name for name, value in before.weights.items() if value.is_floating_point()}
    assert before.training is not None and before.training["average"]["mean"].keys() == floating
    train(few_steps(6, "ddp"), data / "data", run, cpu=True)
    assert "continuing at step 4 of 6" in capsys.readouterr().out
    after = load_checkpoint(step_path(run, 6), training=True)
    assert step_path(run, 6).is_file() and not step_path(run, 2).exists()
    assert after.training is not None
    counts = [c.training["average"]["count"] for c in (before, after) if c.training]
    assert counts == [4, 6]
    for name, value in before.weights.items():
        if "batch_norm" in name:
            continue  # running statistics
        change = (after.weights[name] - value).float().abs().max()
        assert change < 0.1, name  # two steps of Adam from there

    pair.run(_train, few_steps(8, "fsdp"), data, run)  # from a file, into a folder
    average(few_steps(8, "fsdp"), data / "data", run)
    decode(few_steps(8, "fsdp"), data / "data", run)
    assert load_checkpoint(run / "averaged.pt").weights.keys() == before.weights.keys()
    assert step_path(run, 8).is_dir()
    ckpt.remove(run / "averaged.pt")
    ckpt.remove(run / "best.pt")
    assert ckpt.find_checkpoint(run) == step_path(run, 8)


def test_damaged_shards_are_noticed(spread: Path, tmp_path: Path) -> None:
    for damage in ("bit", "cut", "lost", "rest"):
        folder = tmp_path / damage
        shutil.copytree(step_path(spread, 4), folder)
        assert not ckpt.damage(folder)
        shard = sorted(folder.glob("__1_*"))[0]
        content = bytearray(shard.read_bytes())
        if damage == "lost":
            shard.unlink()
        elif damage == "rest":
            (folder / "rest.pt").write_bytes(b"")
        else:
            content[len(content) // 2] ^= 1
            shard.write_bytes(content if damage == "bit" else content[:-9])
        assert ckpt.damage(folder)
        with pytest.raises(ckpt.Damaged, match="is not a readable checkpoint"):
            load_checkpoint(folder)
