"""Decoding and scoring with a model that tells languages apart."""

import json
from pathlib import Path

import pytest
import torch

from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.text.load import load_tokenizer
from maya.train.checkpoint import Checkpoint, save_checkpoint
from maya.train.validate import language_accuracy
from tests import tiny, tones


def _experiment() -> Experiment:
    exp = tiny.experiment()
    exp.model.language_id_weight, exp.model.language_init = 0.3, 3.0
    return exp


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, and a run whose untrained model hears Hindi everywhere."""
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
    if exp.model.language_id_weight:
        with torch.no_grad():
            model.language_head.out.weight.zero_()
            model.language_head.out.bias[:] = torch.tensor([0.0, 4.0])
    save_checkpoint(top / "run" / "best.pt", Checkpoint(model_config=model.cfg, tokenizer=pieces,
                    weights=model.state_dict(), step=0, notes={}))  # fmt: skip


def _rows(top: Path) -> dict[str, dict]:
    lines = (top / "run" / "decode" / "test" / "hyps.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_decoding_reports_what_was_identified(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp, found = _experiment(), {}
    for told in ("known", "auto", "unknown"):
        exp.decode.language = told
        decode(exp, top / "data", top / "run")
        found[told] = _rows(top)
    for name, row in found["auto"].items():
        assert row["language_found"] == "hi" and row["language_probability"] > 0.9
        hindi = row["language"] == "hi"
        assert (row["tokens"] == found["known"][name]["tokens"]) or not hindi
    differing = [n for n, row in found["auto"].items() if row["tokens"] != found["known"][n]["tokens"]]
    assert differing  # what was English was decoded as Hindi
    assert any(found["unknown"][n]["tokens"] != found["auto"][n]["tokens"] for n in found["auto"])
    score(top / "run")
    assert "language identified in 50.0% (macro average; en 0.0%  hi 100.0%)" in capsys.readouterr().out
    result = json.loads((top / "run" / "decode" / "test" / "result.json").read_text())
    assert result["language_accuracy"] == 0.5 and result["language_accuracy_hi"] == 1.0


def test_auto_needs_the_head(top: Path, tmp_path: Path) -> None:
    exp = _experiment()
    exp.decode.language, exp.model.language_id_weight = "auto", 0.0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.model").write_bytes((top / "run" / "tokenizer.model").read_bytes())
    _save(exp, tmp_path)
    with pytest.raises(MayaError, match="cannot tell languages apart"):
        decode(exp, top / "data", tmp_path / "run")


def test_accuracy_is_averaged_over_languages() -> None:
    told = [("hi", True), ("hi", True), ("hi", True), ("hi", False), ("en", False)]
    assert language_accuracy(told) == {
        "language_accuracy": 0.375,
        "language_accuracy_en": 0.0,
        "language_accuracy_hi": 0.75,
    }
    assert language_accuracy([]) == {}
