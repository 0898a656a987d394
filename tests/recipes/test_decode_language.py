"""Decoding and scoring with language identification."""

import json
from pathlib import Path

import pytest
import torch

from maya.errors import MayaError
from maya.heads import LanguageConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny, tones


def _experiment() -> Experiment:
    exp = tiny.experiment()
    exp.model.heads["language"] = LanguageConfig(weight=0.3)
    exp.model.language_init = 3.0
    return exp


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, and a run whose untrained model identifies everything as Hindi."""
    top = tmp_path_factory.mktemp("languages")
    tones.make_corpus(top / "corpus", utterances=12)
    exp = _experiment()
    prepare(exp, top / "corpus", top / "data")
    tokenizer(exp, top / "data", top / "run")
    _save(exp, top)
    return top


def _save(exp: Experiment, top: Path) -> None:
    pieces = load_tokenizer(top / "run" / "tokenizer.model")
    torch.manual_seed(0)
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi")))
    if "language" in exp.model.heads:
        with torch.no_grad():
            model.heads["language"].out.weight.zero_()
            model.heads["language"].out.bias[:] = torch.tensor([0.0, 4.0])
    save_checkpoint(top / "run" / "best.pt", Checkpoint(model_config=model.cfg, tokenizer=pieces,
                    weights=model.state_dict(), step=0, notes={}))  # fmt: skip


def _rows(top: Path) -> dict[str, dict]:
    lines = (top / "run" / "decode" / "test" / "hyps.jsonl").read_text().splitlines()
    assert not any('"_' in line for line in lines)  # fields of the class's own
    return {row["id"]: row for row in map(json.loads, lines)}


def test_decode_reports_identified_languages(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp, rows = _experiment(), {}
    for source in ("known", "auto", "unknown"):
        exp.decode.language = source
        decode(exp, top / "data", top / "run")
        rows[source] = _rows(top)
    for name, row in rows["auto"].items():
        prediction = row["predictions"]["language"]
        assert prediction["label"] == "hi" and prediction["probability"] > 0.9
        assert row["labels"]["language"] == row["language"]
        hindi = row["language"] == "hi"
        assert (row["tokens"] == rows["known"][name]["tokens"]) or not hindi
    differing = [n for n, row in rows["auto"].items() if row["tokens"] != rows["known"][n]["tokens"]]
    assert differing  # English was decoded as Hindi
    assert any(rows["unknown"][n]["tokens"] != rows["auto"][n]["tokens"] for n in rows["auto"])
    score(top / "run")
    lines = capsys.readouterr().out.splitlines()
    (macro,) = (line for line in lines if line.startswith("macro average  "))
    assert macro.split()[2] == "50.00"
    result = json.loads((top / "run" / "decode" / "test" / "result.json").read_text())
    language = result["labels"]["language"]
    assert language["accuracy"] == 0.5 and language["classes"]["hi"]["accuracy"] == 1.0
    assert language["classes"]["en"]["accuracy"] == 0.0


def test_auto_needs_a_language_head(top: Path, tmp_path: Path) -> None:
    exp = _experiment()
    exp.decode.language = "auto"
    del exp.model.heads["language"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.model").write_bytes((top / "run" / "tokenizer.model").read_bytes())
    _save(exp, tmp_path)
    with pytest.raises(MayaError, match="cannot identify languages"):
        decode(exp, top / "data", tmp_path / "run")
