"""A language model head with the ordinary commands: tokenizer, train, average, decode, score, load."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import maya
from maya.config import from_dict, to_dict
from maya.data.loading.batch import Batch
from maya.data.plan import Position
from maya.decode.methods import greedy
from maya.errors import MayaError
from maya.heads import CTCConfig, LanguageModelConfig
from maya.heads.language_model import load_tokenizer
from maya.models.config import SpeechModelConfig, with_places
from maya.models.speech_model import SpeechModel
from maya.recipes import cli
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer as tokenizer_stage
from maya.recipes.train import train
from maya.text.llm_tokenizer import LLMTokenizer
from maya.train.accelerator import make_accelerator
from maya.train.checkpoints import older
from maya.train.checkpoints.checkpoint import build, load_checkpoint, step_checkpoints
from maya.train.config import TrainConfig
from maya.train.loop import Material
from maya.train.loop import train as run_loop
from maya.train.samples import Samples
from maya.train.validate import make_validate
from tests import tiny_llm, tones
from tests.models.test_speech_llm import TEXTS, batch_of, config, head_of, stirred
from tests.train.test_older import old_names, write

pytest.importorskip("transformers", reason="pip install 'maya-asr[llm]'")
pytest.importorskip("peft", reason="pip install 'maya-asr[llm]'")


def experiment_for(llm: Path, steps: int, **head: Any) -> Experiment:
    model = config(llm, **({"stack": 2, "tokens_per_second": 4.0} | head))
    exp = Experiment(name="tests/speech_llm", model=model, languages=("en", "hi"))
    exp.train = TrainConfig(
        steps=steps,
        lr=5e-3,
        warmup_steps=5,
        log_every=4,
        valid_every=steps,
        save_every=steps,
        average_every=1,
        precision="fp32",
    )
    exp.data.plan.max_seconds, exp.data.plan.temperature = 20.0, 1.0
    return exp


def test_four_utterances_are_overfitted(tmp_path: Path) -> None:
    llm = tiny_llm.make(tmp_path / "llm")
    exp = experiment_for(llm, steps=80, tokens_per_second=30.0)
    tokenizer = load_tokenizer(str(llm))
    batch = batch_of(tokenizer, [0, 1, 2, 3])
    batch.langs = torch.tensor([0, 1, 1, 0])

    def batches(start: Position) -> Iterator[tuple[Position, Batch]]:
        while True:
            yield start, batch

    model = SpeechModel(exp.model)
    lm = head_of(model).lm
    before = {n: p.clone() for n, p in lm.named_parameters() if ".lora_" not in n}
    texts = dict(zip(batch.ids, TEXTS, strict=True))
    exp.train.samples_every = 80
    material = Material(
        batches=batches,
        validate=make_validate(lambda: [batch], texts, tokenizer, ("en", "hi")),
        samples=Samples(lambda: [batch], texts, tokenizer),
    )
    accelerator = make_accelerator(exp.train, cpu=True)
    state = run_loop(exp, model, tokenizer, material, tmp_path / "run", accelerator)
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["head"], row["ref"], row["hyp"]) for row in rows] == [
        (80, "llm", t, t) for t in TEXTS
    ]
    assert state.best == 0.0  # no wrong character
    assert all(torch.equal(p, before[n]) for n, p in lm.named_parameters() if n in before)

    saved = load_checkpoint(tmp_path / "run" / "best.pt")
    again = build(saved)
    hyps = greedy(again, again.encode_audio(batch.audio, batch.audio_lens), "llm", batch.langs)
    assert [saved.tokenizer.decode(h.tokens) for h in hyps] == TEXTS
    assert saved.notes["trained"] == ["llm"] and saved.notes["heads"]["llm"]["cer"] == 0.0
    assert not [n for n in saved.weights if ".lm." in n and ".lora_" not in n]
    recognizer = maya.load(tmp_path / "run", "cpu")
    audio = [a[:n] for a, n in zip(batch.audio, batch.audio_lens.tolist(), strict=True)]
    english = recognizer.transcribe([audio[0], audio[3]], language="en")
    assert [h.text for h in english] == [TEXTS[0], TEXTS[3]]
    with pytest.raises(MayaError, match="cannot decode a stream.*language model"):
        recognizer.stream()

    # The language model lies elsewhere now: the experiment's place is taken, and another LM is refused.
    other = experiment_for(tiny_llm.make(tmp_path / "other", seed=5), steps=80).model
    saved.model_config = with_places(saved.model_config, other)
    assert saved.model_config.heads["llm"].llm == str(tmp_path / "other")  # type: ignore[attr-defined]
    assert saved.model_config.heads["llm"].tokens_per_second == 30.0  # type: ignore[attr-defined]
    with pytest.raises(MayaError, match="another language model"):
        build(saved)


def test_commands_from_corpus_to_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    llm = tiny_llm.make(tmp_path / "llm", chat=True)
    experiment = tmp_path / "mine.py"
    experiment.write_text(
        "from pathlib import Path\n"
        "from tests.recipes.test_speech_llm import experiment_for\n"
        f"def experiment():\n    return experiment_for(Path({str(llm)!r}), steps=6)\n"
    )
    data, run = tmp_path / "data", tmp_path / "run"
    name = ["--experiment", str(experiment)]
    folders = [*name, "--data", str(data), "--run-dir", str(run), "--set", "train.save_every=3"]
    assert cli.main(["prepare", *name, "--corpus", str(tmp_path / "corpus"), "--out", str(data)]) == 0
    assert cli.main(["tokenizer", *folders]) == 0
    assert cli.main(["train", "--cpu", *folders]) == 0
    assert cli.main(["average", *folders]) == 0
    assert cli.main(["decode", *folders]) == 0
    assert cli.main(["score", "--run-dir", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "of which" in shown and "M learn" in shown and "pooled" in shown
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if r["kind"] == "train"]
    assert [r["step"] for r in steps] == [4, 6] and {"llm_loss"} == {
        n for n in steps[0] if n.endswith("_loss")
    }
    assert {"loss", "cer", "wer_hi", "llm_cer"} <= next(r for r in rows if r["kind"] == "valid").keys()
    hyps = [json.loads(line) for line in (run / "decode/test/hyps.jsonl").read_text().splitlines()]
    assert hyps and all(len(h["tokens"]) == len(h["scores"]) for h in hyps)
    assert cli.main(["train", "--cpu", *folders]) == 0 and "up to date" in capsys.readouterr().out
    assert str(llm) == load_checkpoint(run).model_config.heads["llm"].llm  # type: ignore[attr-defined]
    assert load_checkpoint(run / "averaged.pt").notes["trained"] == ["llm"]


def test_resumed_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    exp = experiment_for(tiny_llm.make(tmp_path / "llm"), steps=6)
    prepare(exp, tmp_path / "corpus", tmp_path / "data")
    tokenizer_stage(exp, tmp_path / "data", tmp_path / "run")

    def weights(run: Path, save_every: int) -> dict[str, torch.Tensor]:
        exp = experiment_for(tmp_path / "llm", steps=6)
        exp.model.head("llm", LanguageModelConfig).lora.dropout = 0.1
        exp.train.freeze, exp.train.freeze_steps, exp.train.save_every = ("encoder",), 2, save_every
        train(exp, tmp_path / "data", run, cpu=True)
        return load_checkpoint(step_checkpoints(run)[-1][1], training=True).weights

    straight = weights(tmp_path / "run", 3)
    step_checkpoints(tmp_path / "run")[-1][1].unlink()
    (tmp_path / "run" / "stage-train.json").unlink()
    again = weights(tmp_path / "run", 3)
    assert straight.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in straight.items())


def test_flagship_experiment_loads(monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.chdir(repo)
    exp = load_experiment("egs.indic12.speech_llm", ["model.heads.llm.stack=2"])
    head = exp.model.head("llm", LanguageModelConfig)
    assert head.stack == 2 and head.llm.startswith("google/gemma") and list(exp.model.heads) == ["llm"]
    assert from_dict(Experiment, to_dict(exp)) == exp


def test_tokenizer_comes_from_the_language_model(tmp_path: Path) -> None:
    llm = tiny_llm.make(tmp_path / "llm")
    cfg = config(llm)
    cfg.heads["ctc"] = CTCConfig()  # CTC uses the pieces of the language model too
    brought = cfg.tokenizer()
    assert isinstance(brought, LLMTokenizer) and brought.vocab_size == 261
    other = tiny_llm.make(tmp_path / "other", chat=True)
    path = other / "tokenizer.json"
    path.write_text(path.read_text().replace('"<turn>"', '"<talk>"'))
    cfg.heads["second"] = LanguageModelConfig(llm=str(other))
    with pytest.raises(MayaError, match="heads llm and second need different tokenizers"):
        cfg.tokenizer()
    with pytest.raises(MayaError, match="cannot be loaded|no tokenizer.json"):
        config(tmp_path / "nowhere").tokenizer()


def test_a_speech_llm_of_an_earlier_version_loads(tmp_path: Path) -> None:
    llm = tiny_llm.make(tmp_path / "llm")
    model = stirred(llm)
    head = model.cfg.head("llm", LanguageModelConfig)
    saved = to_dict(model.cfg)
    flat = {name: saved[name] for name in ("features", "noise", "specaugment", "encoder", "languages")}
    flat |= {"llm": head.llm, "llm_precision": head.precision, "llm_checkpointing": head.checkpointing}
    flat |= {"stack": head.stack, "projector_hidden": head.projector_hidden, "prompt": head.prompt}
    flat |= {"lora": to_dict(head.lora)}
    state = old_names(model.state_dict(), older.LLM_NAMES)
    assert {name.split(".")[0] for name in state} == {
        "preprocessor",
        "encoder",
        "projector",
        "lm",
        "lm_digest",
    }
    payload = {"model_config": flat, "weights": state, "step": 9, "notes": {"experiment": "x"}}
    write(tmp_path / "run" / "best.pt", payload, load_tokenizer(str(llm)))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"decode": {"tokens_per_second": 5.0}}))
    loaded = load_checkpoint(tmp_path / "run")
    head.tokens_per_second = 5.0
    assert (
        loaded.older
        and isinstance(loaded.model_config, SpeechModelConfig)
        and loaded.model_config == model.cfg
    )
    again = build(loaded).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
