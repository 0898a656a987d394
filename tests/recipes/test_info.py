"""`maya info` on every kind of checkpoint: the short form, and the full form with --all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maya.encoders import LaCTConfig
from maya.encoders.lact.config import streaming
from maya.heads.attention import AttentionDecoderConfig
from maya.heads.classify import LanguageConfig
from maya.heads.language_model import LanguageModelConfig, load_tokenizer
from maya.heads.lora import LoraConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.recipes.cli import main
from maya.recipes.lact_presets import lact
from maya.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests import tiny, tiny_llm, tiny_zipformer
from tests.convert.archives import archive, tokenizer

TWELVE = ("hi", "bn", "ta", "te", "mr", "gu", "kn", "ml", "pa", "or", "as", "en")


def save(path: Path, cfg: SpeechModelConfig) -> Path:
    own = tokenizer()
    cfg.vocab_size = own.vocab_size
    scores = {"loss": 1.5, "wer": 0.123, "cer": 0.045} | {f"wer_{code}": 0.1 for code in TWELVE}
    model = SpeechModel(cfg)
    checkpoint = Checkpoint(
        model_config=cfg, tokenizer=own, weights=model.state_dict(), step=12, notes={"valid": scores}
    )
    save_checkpoint(path, checkpoint)
    return path


def lact_config(order: str) -> SpeechModelConfig:
    encoder = LaCTConfig(d_model=32, n_layers=2, n_heads=2, ff_dim=32, subsampling_channels=8)
    return lact(streaming(encoder) if order == "chunk_causal" else encoder, "tdt", hidden=32)


def checkpoint_of(kind: str, top: Path) -> Path:
    path = top / "best.pt"
    if kind == "nemo":
        return archive(top / "model.nemo", languages=TWELVE)
    if kind == "llm":
        pytest.importorskip("transformers")
        pytest.importorskip("peft")
        folder = str(tiny_llm.make(top / "llm"))
        cfg = replace(tiny.experiment().model, languages=TWELVE)
        cfg.heads = {"llm": LanguageModelConfig(llm=folder, stack=2, lora=LoraConfig(rank=4))}
        llm_tokenizer = load_tokenizer(folder)
        cfg.vocab_size = llm_tokenizer.vocab_size
        weights = SpeechModel(cfg).state_dict()
        checkpoint = Checkpoint(model_config=cfg, tokenizer=llm_tokenizer, weights=weights, step=12, notes={})
        save_checkpoint(path, checkpoint)
        return path
    if kind == "hybrid":
        cfg = tiny.experiment().model
        cfg.languages = TWELVE
        cfg.heads["attention"] = AttentionDecoderConfig(weight=0.3, layers=1, dim=16, heads=2)
        cfg.heads["language"] = LanguageConfig(weight=0.1)
        return save(path, cfg)
    if kind == "zipformer":
        return save(path, tiny_zipformer.config(causal=True, cr_ctc_weight=0.2, languages=TWELVE))
    return save(path, lact_config(kind.removeprefix("lact-")))


@pytest.mark.parametrize("kind", ["hybrid", "zipformer", "lact-whole", "lact-chunk_causal", "llm", "nemo"])
def test_checkpoint_is_described_in_25_lines(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint_of(kind, tmp_path)
    stored = torch.load(path, weights_only=True)["weights"] if path.suffix == ".pt" else {}
    if kind == "llm":  # the language model may lie on another machine
        shutil.rmtree(tmp_path / "llm")
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) < 300
    text = "\n".join(lines)
    for name in ("file  ", "model  ", "step  ", "parameters  ", "encoder  ", "frame  ", "vocabulary  "):
        assert name in text, name
    if kind == "llm":
        assert "llm (language_model)" in text and "llm lora" in text and "llm projector" in text
    assert "stream  " in text
    if kind in ("hybrid", "zipformer"):
        assert "dev         wer 0.123, cer 0.045, loss 1.500" in text

    assert main(["info", str(path), "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)
    assert actual["step"] in (0, 12) and actual["model_config"]["encoder"]["kind"] in actual["model"]
    assert actual["languages"] == ([] if kind in ("nemo", "lact-whole", "lact-chunk_causal") else [*TWELVE])
    if stored and kind != "llm":
        buffers = ("running_", "num_batches", "featurizer", "lm_digest")
        learnt = sum(t.numel() for name, t in stored.items() if not any(b in name for b in buffers))
        assert sum(actual["parameters"].values()) == learnt

    assert main(["info", str(path), "--all"]) == 0
    whole = capsys.readouterr().out
    assert "model.encoder.kind = " in whole and "model.features.num_mels = 80" in whole
    assert len(whole.splitlines()) > 40


def test_heads_list_their_training_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = tiny.experiment().model
    cfg.languages = TWELVE
    path = save(tmp_path / "a.pt", cfg)
    checkpoint = load_checkpoint(path)
    scores = {"steps": 7, "wer": 0.5, "cer": 0.25}
    checkpoint.notes |= {"trained": ["ctc"], "heads": {"transducer": {"steps": 0}, "ctc": scores}}
    save_checkpoint(path, checkpoint)
    assert main(["info", str(path)]) == 0
    line = "heads       transducer (not trained), ctc (7 steps, CER 25.00 % on dev)"
    assert line in capsys.readouterr().out.splitlines()
