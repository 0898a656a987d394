"""Checkpoints of Maya 0.2 load, decode, average and start another training; a resume is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.config import to_dict
from maya.errors import MayaError
from maya.models.hybrid import HybridOptions
from maya.models.speech_model import SpeechModel
from maya.recipes.average import average
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints import older
from maya.train.heads import read_heads, trained_names
from tests import tiny


def options(**changes: Any) -> HybridOptions:
    """The flat options of a hybrid model with every head."""
    heads: dict[str, Any] = {"attention_weight": 0.2, "language_id_weight": 0.3, "transducer": "pruned"}
    return tiny.options(**(heads | {"vocab_size": 8} | changes))


def flat(cfg: HybridOptions) -> dict[str, Any]:
    """The JSON of the configuration as Maya 0.2 wrote it."""
    saved = to_dict(cfg)
    for name in ("ctc_first", "ctc_ramp"):
        del saved[name]
    for name in ("kind", "weight", "first_step", "ramp_steps"):  # fields that heads have got since
        saved["attention_decoder"].pop(name, None)
    saved["pruned"].pop("warmup_steps")
    return saved


def old_names(state: dict[str, Any], names: dict[str, str] = older.HYBRID_NAMES) -> dict[str, Any]:
    """A state dict with the names of Maya 0.2."""
    longest = sorted(names.items(), key=lambda pair: -len(pair[1]))

    def old(name: str) -> str:
        for before, now in longest:
            if name == now or name.startswith(now + "."):
                return before + name.removeprefix(now)
        return name

    return {old(name): value for name, value in state.items()}


def write(path: Path, payload: dict[str, Any], pieces: Tokenizer) -> None:
    """Write a checkpoint in the format of Maya 0.2."""
    data = torch.frombuffer(bytearray(pieces.model_bytes), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": older.FORMAT, "tokenizer": data, "training": None} | payload, path)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_tokenizer({"en": ["ab ba abba", "a b"], "hi": ["ab"]}, TokenizerConfig(vocab_size=8))


def test_old_model_gives_the_same_output(tmp_path: Path, pieces: Tokenizer) -> None:
    cfg = options()
    model = SpeechModel(cfg.model_config()).eval()
    state = old_names(model.state_dict())
    assert {name.split(".")[0] for name in state} == {
        "preprocessor", "encoder", "decoder", "joint", "simple_joint", "ctc_decoder", "attention_decoder",
        "language_head", "language_embedding",
    }  # fmt: skip
    notes = {
        "trained": ["ctc"],
        "heads": {"transducer": {"steps": 0}, "ctc": {"steps": 7, "wer": 0.3, "cer": 0.1}},
    }
    write(
        tmp_path / "best.pt", {"model_config": flat(cfg), "weights": state, "step": 7, "notes": notes}, pieces
    )
    loaded = ckpt.load_checkpoint(tmp_path)
    assert loaded.older and loaded.model_config == model.cfg and loaded.notes["heads"]["ctc"]["steps"] == 7
    heads = read_heads(loaded)
    assert heads.trained == ("ctc",) and heads.dev == {"ctc": {"wer": 0.3, "cer": 0.1}}
    audio, lens = torch.randn(2, 8000) * 0.1, torch.tensor([8000, 6000])
    a, b = (m.encode(audio, lens).frames for m in (model, ckpt.build(loaded)))
    assert torch.equal(a, b)
    for name, value in ckpt.build(loaded).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    # Saved again it is a checkpoint of today.
    ckpt.save_checkpoint(tmp_path / "again.pt", loaded)
    again = ckpt.load_checkpoint(tmp_path / "again.pt")
    assert not again.older and again.model_config == model.cfg


INIT = {"init_from": "x", "init_modules": ["encoder", "decoder", "joint"]}


@pytest.mark.parametrize(
    ("step", "train", "trained"),
    [
        (20, {"ctc_first": 20}, ("ctc",)),
        (21, {"ctc_first": 20}, ("transducer", "ctc")),
        (9, {}, ("transducer", "ctc")),
        (1, {"ctc_ramp": 20}, ("transducer",)),
        (9, {"ctc_first": 20, **INIT}, ("transducer", "ctc")),
        (9, {"ctc_first": 20, **INIT, "init_from": ""}, ("ctc",)),
        (9, None, ("transducer", "ctc")),  # the options are lost: every head counts as trained
    ],
)
@pytest.mark.parametrize("place", ["best.pt", "checkpoints/step-0000009.pt", "inside"])
def test_trained_heads_and_schedules_follow_from_the_saved_experiment(
    tmp_path: Path, pieces: Tokenizer, step: int, train: dict | None, trained: tuple, place: str
) -> None:
    """The options are in the training checkpoint, or in config.json of its run."""
    cfg = options(attention_weight=0.0, language_id_weight=0.0)
    model = SpeechModel(cfg.model_config())
    payload: dict[str, Any] = {
        "model_config": flat(cfg),
        "weights": old_names(model.state_dict()),
        "step": step,
    }
    payload |= {"notes": {"experiment": "x"}}
    if place == "inside" and train is not None:
        payload["training"] = {"experiment": {"train": train}}
    elif train is not None:
        (tmp_path / "config.json").write_text(json.dumps({"train": train | {"of_another_version": 1}}))
    else:
        (tmp_path / "config.json").write_text("{broken")
    path = tmp_path / (place if place != "inside" else "x/a.pt")
    write(path, payload, pieces)
    loaded = ckpt.load_checkpoint(path)
    assert trained_names(loaded) == trained
    heads = loaded.model_config.heads
    assert heads["transducer"].first_step == (train or {}).get("ctc_first", 0)
    assert heads["ctc"].ramp_steps == (train or {}).get("ctc_ramp", 0)


@pytest.mark.parametrize(
    ("untrained", "trained"),
    [
        ([], ("transducer", "ctc")),
        (["decoder", "joint", "ctc_decoder"], ()),
        (["joint"], ("ctc",)),
        (["language_embedding"], ("transducer", "ctc")),
    ],
)
def test_old_converted_models_load(
    tmp_path: Path, pieces: Tokenizer, untrained: list[str], trained: tuple
) -> None:
    cfg = options(attention_weight=0.0, language_id_weight=0.0)
    state = old_names(SpeechModel(cfg.model_config()).state_dict())
    notes = {"untrained": untrained}
    write(
        tmp_path / "best.pt", {"model_config": flat(cfg), "weights": state, "step": 0, "notes": notes}, pieces
    )
    assert trained_names(ckpt.load_checkpoint(tmp_path / "best.pt")) == trained


def test_unknown_kind_is_refused_with_a_remedy(tmp_path: Path, pieces: Tokenizer) -> None:
    cfg = tiny.experiment().model
    cfg.vocab_size = 8
    saved = ckpt.Checkpoint(model_config=cfg, tokenizer=pieces, weights={}, step=0, notes={})
    ckpt.save_checkpoint(tmp_path / "a.pt", saved)
    for part, change in (("encoder", {"kind": "gru"}), ("heads", {"mood": {"kind": "mood"}})):
        payload = torch.load(tmp_path / "a.pt", weights_only=True)
        payload["model_config"][part] |= change
        torch.save(payload, tmp_path / "b.pt")
        with pytest.raises(MayaError, match=r"b\.pt: unknown kind '(gru|mood)'.*--experiment FILE"):
            ckpt.load_checkpoint(tmp_path / "b.pt")


def test_old_run_can_be_averaged_and_start_another_but_not_continue(tmp_path: Path) -> None:
    exp = tiny.experiment()
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 4, 2, 2
    tiny.prepare_run(exp, tmp_path, utterances=8)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    average(exp, tmp_path / "data", tmp_path / "run", avg=2)
    mean = ckpt.load_checkpoint(tmp_path / "run" / "averaged.pt")

    old = tmp_path / "old"
    shutil.copytree(tmp_path / "run", old)
    (old / "averaged.pt").unlink()
    for _, path in ckpt.step_checkpoints(old):
        payload = torch.load(path, weights_only=True)
        model = ckpt.load_checkpoint(path).model_config
        cfg = tiny.options(encoder=model.encoder, vocab_size=model.vocab_size)
        assert cfg.model_config() == model
        training = payload["training"]
        training["average"]["mean"] = old_names(training["average"]["mean"])
        payload |= {
            "format": older.FORMAT,
            "model_config": flat(cfg),
            "weights": old_names(payload["weights"]),
        }
        path.unlink()
        torch.save(payload, path)
    average(exp, tmp_path / "data", old, avg=2, force=True)
    again = ckpt.load_checkpoint(old / "averaged.pt")
    assert again.weights.keys() == mean.weights.keys()
    assert all(torch.equal(value, again.weights[name]) for name, value in mean.weights.items())

    (old / "stage-train.json").unlink()
    with pytest.raises(MayaError, match=r"written by Maya 0\.2.*start a new run with train\.init_from="):
        train(exp, tmp_path / "data", old, cpu=True)
    exp.train.init_from, exp.train.init_modules = str(old), ("encoder", "transducer", "ctc")
    tokenizer(exp, tmp_path / "data", tmp_path / "new")
    train(exp, tmp_path / "data", tmp_path / "new", cpu=True)
    assert ckpt.load_checkpoint(tmp_path / "new" / "best.pt").notes["trained"] == ["transducer", "ctc"]
