"""`maya lm`: n-grams and an LSTM from text files and from prepared data, with their perplexity."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from maya.decode.lm.arpa import read_arpa
from maya.decode.lm.lstm import LSTMConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.cli import main
from maya.recipes.lm_training import LSTMTraining, mean_loss, train_lstm
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny

LINES = ["one two three", "two three one", "three one two two", "one one two"] * 10


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, and a run with an untrained model."""
    top = tmp_path_factory.mktemp("lm")
    exp = tiny.experiment()
    tiny.prepare_run(exp, top, utterances=12)
    pieces = load_tokenizer(top / "run" / "tokenizer.model")
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi")))
    save_checkpoint(top / "run" / "best.pt", Checkpoint(model_config=model.cfg, tokenizer=pieces,
                    weights=model.state_dict(), step=0, notes={}))  # fmt: skip
    return top


def test_ngrams_of_the_prepared_texts_by_language(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = top / "ngrams"
    options = ["--data", str(top / "data"), "--out", str(out), "--order", "3"]
    assert main(["lm", str(top / "run"), *options]) == 0
    assert {path.name for path in out.iterdir()} == {"en.arpa.gz", "hi.arpa.gz", "all.arpa.gz", "lm.json"}
    assert read_arpa(out / "all.arpa.gz").order <= 3
    report = json.loads((out / "lm.json").read_text())
    assert report["dev"][""]["per_token"] > 1 and "perplexity a token" in capsys.readouterr().out


def test_text_files_and_an_lstm(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, zipped = top / "a.txt", top / "b.txt.gz"
    plain.write_text("\n".join(LINES) + "\n\n")
    zipped.write_bytes(gzip.compress("\n".join(LINES[:8]).encode()))
    options = ["--texts", str(plain), str(zipped), "--language", "en", "--kind", "lstm", "--hidden", "8"]
    out = top / "lstm"
    assert main(["lm", str(top / "run"), *options, "--epochs", "2", "--out", str(out)]) == 0
    report = json.loads((out / "lm.json").read_text())
    assert report["kind"] == "lstm" and report["texts"] == 45 and (out / "lm.pt").is_file()
    assert main(["lm", str(top / "run" / "best.pt"), "--out", str(out)]) == 1
    assert "name the texts with --texts" in capsys.readouterr().err


def test_lstm_learns(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [[0, 1, 2, 3], [3, 2, 1, 0]] * 40
    options = LSTMTraining(epochs=12, lr=1e-2, batch_tokens=64)
    model = train_lstm(texts, texts[:2], 5, LSTMConfig(hidden=16, layers=1), options, torch.device("cpu"))
    # Five tokens a text, the end counted; which of the two texts it is remains a coin toss.
    assert math.log(2) / 5 - 0.01 < mean_loss(model, texts, options) < 0.3
    assert "training perplexity" in capsys.readouterr().out
