"""A language model as decoder, through the loop that all models have and the commands around it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from maya.config import to_dict
from maya.data.loading.batch import Batch
from maya.data.plan import Position
from maya.errors import MayaError
from maya.models.speech_llm import SpeechLLM, load_tokenizer
from maya.recipes import cli
from maya.recipes.experiment import load_experiment
from maya.recipes.prepare import prepare
from maya.recipes.speech_llm import LLMExperiment, load, train, transcribe
from maya.train.checkpoint import build, load_checkpoint, step_checkpoints
from maya.train.config import TrainConfig
from maya.train.loop import make_accelerator
from maya.train.loop import train as run_loop
from maya.train.samples import Samples, greedy_llm
from maya.train.validate import make_validate_llm
from tests import tiny_llm, tones
from tests.models.test_speech_llm import TEXTS, batch_of, config

pytest.importorskip("transformers", reason="pip install 'maya-asr[llm]'")
pytest.importorskip("peft", reason="pip install 'maya-asr[llm]'")


def experiment_for(llm: Path, steps: int) -> LLMExperiment:
    exp = LLMExperiment(name="tests/speech_llm", model=config(llm, stack=2), languages=("en", "hi"))
    exp.train = TrainConfig(
        steps=steps,
        lr=5e-3,
        warmup_steps=5,
        log_every=4,
        valid_every=steps,
        save_every=steps,
        precision="fp32",
    )
    exp.data.plan.max_seconds, exp.data.plan.temperature = 20.0, 1.0
    exp.data.plan.memory.limit = "off"
    exp.decode.tokens_per_second = 4.0
    return exp


def test_learns_four_utterances_to_the_letter(tmp_path: Path) -> None:
    exp = experiment_for(tiny_llm.make(tmp_path / "llm"), steps=80)
    tokenizer = load_tokenizer(exp.model.llm)
    batch = batch_of(tokenizer, [0, 1, 2, 3])
    batch.langs = torch.tensor([0, 1, 1, 0])

    def batches(start: Position) -> Iterator[tuple[Position, Batch]]:
        while True:
            yield start, batch

    model = SpeechLLM(exp.model)
    before = {n: p.clone() for n, p in model.lm.named_parameters() if ".lora_" not in n}
    validate = make_validate_llm(
        lambda: [batch],
        dict(zip(batch.ids, TEXTS, strict=True)),
        tokenizer,
        ("en", "hi"),
        tokens_per_second=30,
    )
    accelerator = make_accelerator(exp.train, cpu=True)
    exp.train.samples_every = 80
    texts = dict(zip(batch.ids, TEXTS, strict=True))
    samples = Samples(lambda: [batch], texts, tokenizer, ("en", "hi"), greedy_llm(30))
    state = run_loop(
        exp, model, tokenizer, batches, validate, tmp_path / "run", accelerator=accelerator, samples=samples
    )
    shown = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["ref"], row["hyp"]) for row in shown] == [(80, t, t) for t in TEXTS]
    assert state.best == 0.0  # no wrong character
    assert all(torch.equal(p, before[n]) for n, p in model.lm.named_parameters() if n in before)

    again, theirs = load(tmp_path / "run" / "best.pt")
    hyps = transcribe(again, theirs, batch, 30.0)
    assert [h.text for h in hyps] == TEXTS and [h.id for h in hyps] == batch.ids
    saved = load_checkpoint(tmp_path / "run" / "best.pt")
    assert not [n for n in saved.weights if n.startswith("lm.") and ".lora_" not in n]
    with pytest.raises(MayaError, match="of a speech LLM"):
        build(saved)
    with pytest.raises(MayaError, match="another language model"):
        load(tmp_path / "run", llm=str(tiny_llm.make(tmp_path / "other", seed=5)))


def test_commands_from_a_corpus_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    llm = tiny_llm.make(tmp_path / "llm", chat=True)

    def load_this(name: str, overrides: list[str], *, llm: bool = False) -> LLMExperiment:
        return experiment_for(tmp_path / "llm", steps=6)

    for module in ("prepare", "speech_llm"):
        monkeypatch.setattr(f"maya.recipes.{module}.load_experiment", load_this)
    data, run = tmp_path / "data", tmp_path / "run"
    here = ["--experiment", "x", "--data", str(data), "--run-dir", str(run)]
    assert (
        cli.main(["prepare", "--experiment", "x", "--corpus", str(tmp_path / "corpus"), "--out", str(data)])
        == 0
    )
    assert cli.main(["llm", "train", "--cpu", *here]) == 0
    assert cli.main(["llm", "decode", "--cpu", *here]) == 0
    assert cli.main(["score", "--run-dir", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "language model (frozen)" in shown and "pooled" in shown
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if r["kind"] == "train"]
    assert [r["step"] for r in steps] == [4, 6] and "transducer_loss" not in steps[0]
    assert {"loss", "cer", "wer_hi"} <= next(r for r in rows if r["kind"] == "valid").keys()
    hyps = [json.loads(line) for line in (run / "decode/test/hyps.jsonl").read_text().splitlines()]
    assert hyps and all(len(h["tokens"]) == len(h["scores"]) for h in hyps)
    assert cli.main(["llm", "train", "--cpu", *here]) == 0 and "up to date" in capsys.readouterr().out
    assert str(llm) == load_checkpoint(run).model_config.llm


def test_resuming_is_as_if_it_had_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    exp = experiment_for(tiny_llm.make(tmp_path / "llm"), steps=6)
    prepare(exp, tmp_path / "corpus", tmp_path / "data")  # type: ignore[arg-type]

    def weights(run: Path, save_every: int) -> dict[str, torch.Tensor]:
        exp = experiment_for(tmp_path / "llm", steps=6)
        exp.model.lora.dropout, exp.train.encoder_freeze, exp.train.save_every = 0.1, 2, save_every
        train(exp, tmp_path / "data", run, cpu=True)
        return load_checkpoint(step_checkpoints(run)[-1][1], training=True).weights

    straight = weights(tmp_path / "run", 3)
    step_checkpoints(tmp_path / "run")[-1][1].unlink()
    (tmp_path / "run" / "stage-train.json").unlink()
    again = weights(tmp_path / "run", 3)
    assert straight.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in straight.items())


def test_other_commands_refuse_it(monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.chdir(repo)
    with pytest.raises(MayaError, match="maya llm train"):
        load_experiment("egs.indic12.speech_llm", [])
    exp = load_experiment("egs.indic12.speech_llm", ["model.stack=2"], llm=True)
    assert exp.model.stack == 2 and to_dict(exp)["model"]["llm"].startswith("google/gemma")
    assert (
        cli.main(["llm", "train", "--experiment", "egs.indic12.mini", "--data", "d", "--run-dir", "r"]) == 1
    )


def test_what_it_lacks_is_told(tmp_path: Path) -> None:
    exp = experiment_for(tmp_path / "nowhere", steps=2)
    exp.data.plan.memory.limit = "auto"
    with pytest.raises(MayaError, match="memory.limit off"):
        (tmp_path / "stage.json").write_text("{}")
        train(exp, tmp_path, tmp_path / "run", cpu=True)
    with pytest.raises(MayaError, match="no checkpoint"):
        load(tmp_path)
