"""Failed steps stop before the optimizer update, and their batches are saved to reproduce them."""

import gc
import json
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest
import soundfile
import torch

from maya.config import config, override
from maya.data.loading.batch import Batch
from maya.data.plan import BatchPlan
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.encoders import EncoderConfig, FastConformer
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.ranges import PosInt
from maya.recipes.cli import main
from maya.recipes.train import train
from maya.text.load import load_tokenizer
from maya.train import loop
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from maya.train.failure import NotFinite, OutOfMemory, kept, smaller_batches
from maya.train.memory.steps import synthetic
from tests import tiny

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("failure"), utterances=12)


def _run(data: Path, to: Path, **options: Any) -> Path:
    shutil.copytree(data / "run", to)
    exp = tiny.experiment()
    exp.model.encoder.dropout = 0.1
    for name, value in options.items():
        setattr(exp.train, name, value)
    train(exp, data / "data", to, cpu=True)
    return to


class Poison(torch.autograd.Function):
    """Finite forward, NaN backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * float("nan")


def _weights_of_step(monkeypatch: pytest.MonkeyPatch, step: int) -> dict[str, torch.Tensor]:
    """A dictionary that is filled with the weights at the start of a step."""
    seen: dict[str, torch.Tensor] = {}
    real = loop.train_step

    def noting(tools: Any, *rest: Any) -> Any:
        if rest[2].step == step:
            seen.update({name: p.detach().clone() for name, p in tools.model.named_parameters()})
        return real(tools, *rest)

    monkeypatch.setattr(loop, "train_step", noting)
    return seen


def _holds(run: Path, before: dict[str, torch.Tensor]) -> None:
    weights = load_checkpoint(run / "not-a-number" / "model.pt").weights
    assert before and all(torch.equal(weights[name], value) for name, value in before.items())


@pytest.mark.parametrize("optimizer", ["adamw", "scaled_adam"])
def test_non_finite_gradient_stops_before_the_update(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    before = _weights_of_step(monkeypatch, 2)
    real = FastConformer.forward

    def poisoned(self: FastConformer, *args: Any) -> Any:
        encoded = real(self, *args)
        if before and self.training:
            encoded.frames = Poison.apply(encoded.frames)
        return encoded

    monkeypatch.setattr(FastConformer, "forward", poisoned)
    run = tmp_path / "run"
    with pytest.raises(NotFinite, match=r"gradients of step 2 are not finite.*maya diagnose .*run` says"):
        _run(data, run, optimizer=optimizer, accumulate=2)
    _holds(run, before)
    assert not (run / "not-a-number.txt").exists() and not step_checkpoints(run)
    (failure,) = kept(run)
    assert (failure.step, failure.what, failure.rank, failure.device) == (2, "gradient", 0, "cpu")
    assert len(failure.tallies) == 2 and all(t.losses.isfinite().all() for t in failure.tallies)


def test_nan_loss_saves_everything_to_reproduce_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _weights_of_step(monkeypatch, 1)
    seen: list[tuple[Batch, torch.Tensor]] = []
    real = SpeechModel.forward

    def broken(self: SpeechModel, batch: Batch, *rest: Any) -> Any:
        if before and self.training:
            batch.audio[1, 400:500] = torch.nan
            seen.append((batch, torch.get_rng_state()))
        return real(self, batch, *rest)

    monkeypatch.setattr(SpeechModel, "forward", broken)
    run = tmp_path / "run"
    with pytest.raises(NotFinite, match=r"loss of \d utterance\(s\) is not a number at step 1; .*diagnose"):
        _run(data, run)
    _holds(run, before)
    (failure,) = kept(run)
    (tally,) = failure.tallies
    batch, random = seen[0]
    assert failure.what == "loss" and tally.batch.ids == batch.ids
    assert torch.equal(tally.batch.audio.nan_to_num(9), batch.audio.nan_to_num(9))
    assert torch.equal(tally.batch.tokens, batch.tokens) and torch.equal(tally.random[0], random)
    named = {line.split("\t")[1] for line in (run / "not-a-number.txt").read_text().splitlines()}
    assert named == {i for i, bad in zip(batch.ids, tally.losses.isnan().tolist(), strict=True) if bad}
    assert batch.ids[1] in named

    assert main(["diagnose", str(run)]) == 1
    assert "100 SAMPLES ARE NOT FINITE" in capsys.readouterr().out

    # A file of an earlier failure of more ranks is left aside, and a damaged one named.
    shutil.copy(run / "not-a-number" / "rank-00000.pt", tmp_path / "old.pt")
    old = torch.load(tmp_path / "old.pt", weights_only=True) | {"step": 0, "rank": 1}
    torch.save(old, run / "not-a-number" / "rank-00001.pt")
    assert [f.rank for f in kept(run)] == [0]
    (run / "not-a-number" / "rank-00001.pt").write_bytes(b"PK no more")
    with pytest.raises(MayaError, match=r"rank-00001\.pt is damaged"):
        kept(run)


def test_out_of_memory_error_names_the_batch_and_the_remedy(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(loop, "train_step", too_large)
    words = (
        r"out of memory at step 0, with a batch of \d utterances × \d\.\d s, \d+ tokens "
        r"\(the largest of 2 accumulated ones\); halve it with data\.plan\.max_seconds=(\d+\.?\d*) "
        r"train\.accumulate=(\d+) \(still 40 s of audio a step: .*data\.plan\.memory\.limit=GB"
    )
    with pytest.raises(MayaError, match=words) as stopped:
        _run(data, tmp_path / "run", accumulate=2)
    match = re.search(words, str(stopped.value))
    assert match and float(match[1]) * int(match[2]) == pytest.approx(40.0, abs=0.1 * int(match[2]))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert not [r for r in rows if r["kind"] == "train"]
    monkeypatch.setattr(loop, "train_step", lambda *_: [].pop())
    with pytest.raises(IndexError):  # nothing else is taken for it
        _run(data, tmp_path / "other")


def test_model_is_released_before_memory_is_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the device would be full during the measurement."""
    made: list[weakref.ref] = []

    def too_large(self: SpeechModel, batch: Batch, *_: Any) -> Any:
        held = self.encoder(torch.zeros(1, 64, 80), torch.tensor([64])).frames
        made.extend((weakref.ref(self), weakref.ref(held)))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def left(*_: Any) -> str:
        gc.collect()
        return str([x() is None for x in made])

    monkeypatch.setattr(SpeechModel, "forward", too_large)
    monkeypatch.setattr("maya.recipes.train.advice", left)
    with pytest.raises(MayaError, match=r"\[True, True\]"):
        _run(data, tmp_path / "run")


@config
class OwnConfig(EncoderConfig):
    kind: Literal["own_plain"] = "own_plain"
    feat_in: PosInt = 80
    d_model: PosInt = 32
    subsampling_factor: PosInt = 4


def _out_of_memory(rows: int, encoder: EncoderConfig | None = None, **options: Any) -> OutOfMemory:
    exp = tiny.experiment()
    exp.model.encoder = encoder or exp.model.encoder
    exp.data.plan.max_seconds = 200.0
    for name, value in options.items():
        override(exp, f"{name}={value}")
    group = [synthetic(rows, 195.0 / rows, 3, 20), synthetic(1, 1.0, 3, 20)]
    return OutOfMemory(group, 5, exp, torch.device("cuda"))


def test_halving_keeps_the_audio_of_a_step() -> None:
    assert (
        str(_out_of_memory(10, **{"train.accumulate": 2}))
        == "out of memory at step 5, with a batch of 10 utterances × 19.5 s, 3 tokens (the largest of 2 "
        "accumulated ones); halve it with data.plan.max_seconds=100 train.accumulate=4 (still 400 s of audio "
        "a step: 100 × 4), or give data.plan.memory.limit=auto, which measures first what fits"
    )
    assert "safety below 0.9" in str(_out_of_memory(10, **{"data.plan.memory.limit": "auto"}))
    assert "a batch of 1 utterance × 195.0 s" in str(_out_of_memory(1))
    assert "'0' cannot be divided; leave such utterances out" in str(_out_of_memory(1))
    assert str(_out_of_memory(1)).endswith(", or set model.encoder.activation_checkpointing=true")
    on = _out_of_memory(1, **{"model.encoder.activation_checkpointing": "true"})
    own = _out_of_memory(1, OwnConfig())  # an encoder without the option
    assert str(on).endswith("with data.max_seconds") and str(own).endswith("with data.max_seconds")
    assert smaller_batches(300.0, 1, 140.0).startswith(
        "data.plan.max_seconds=100 train.accumulate=3 (still 300"
    )
    assert smaller_batches(300.0, 2, 300.0).startswith(
        "data.plan.max_seconds=300 train.accumulate=2 (still 600"
    )


def _trained_on(data: Path, step: int, rank: int) -> str:
    """The utterance of one of two processes at a step, with batches of one utterance."""
    exp = tiny.experiment()
    exp.data.plan.max_utterances = 1
    table, pieces = (
        Table.open(part_path(data / "data", "train")),
        load_tokenizer(data / "run/tokenizer.model"),
    )
    utterances = Utterances.from_table(table, pieces, exp.languages)
    columns = (utterances.durations, utterances.token_counts, utterances.langs)
    plan = BatchPlan(*columns, exp.data.plan, rank=rank, world_size=2, ids=utterances.ids)
    (row,) = plan.epoch(0)[step]
    return utterances.ids[row]


@pytest.mark.slow
def test_two_processes_stop_together_and_save_the_failing_batch(data: Path, tmp_path: Path) -> None:
    """One of many recordings is broken. Rank 0 logs samples until that batch, then both ranks stop."""
    run, name = tmp_path / "run", _trained_on(data, step=2, rank=1)
    shutil.copytree(data / "run", run)
    wav = data / "corpus" / f"{name}.wav"
    before = wav.read_bytes()
    samples, rate = soundfile.read(wav)
    samples[200:300] = 1e30  # a number, and its power is none in fp32
    soundfile.write(wav, samples, rate, subtype="FLOAT")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "maya.recipes.cli", "train", "--experiment", "tests.tiny", "--cpu"]
    command += ["--run-dir", str(run), "--data", str(data / "data")]
    options = ("data.plan.max_utterances=1", "train.samples_every=1", "train.threads=1")
    # Batch statistics would tell the other process.
    for option in (*options, "model.encoder.conv_norm=layer_norm"):
        command += ["--set", option]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=280)
    wav.write_bytes(before)
    assert done.returncode != 0 and "is not a number at step 2" in done.stderr, done.stdout + done.stderr
    (failure,) = kept(run)
    assert (failure.rank, failure.step, failure.what) == (1, 2, "loss")
    assert [t.batch.ids for t in failure.tallies] == [[name]]
    assert (run / "not-a-number.txt").read_text() == f"2\t{name}\n"
    assert load_checkpoint(run / "not-a-number" / "model.pt").step == 2
    steps = [json.loads(line)["step"] for line in (run / "samples.jsonl").read_text().splitlines()]
    assert steps == [1, 1, 1, 2, 2, 2]
