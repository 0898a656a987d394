"""Decoding of tables: texts and predicted labels in each row, also for models without a text head."""

import json
from pathlib import Path

import pytest
import torch

import maya
from maya.convert import Conversion
from maya.convert.report import ConversionReport
from maya.data.loading.batch import make_batch
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.decode.table import decode_batch
from maya.errors import MayaError
from maya.heads import ClassifyConfig, LanguageConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes.cli import main
from maya.recipes.decode import decode
from maya.recipes.prepare import prepare
from maya.recipes.score import score
from maya.recipes.tokenizer import tokenizer
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny, tones
from tests.data.making import make_tokenizer


def model_with_classes() -> SpeechModel:
    cfg = with_vocabulary(tiny.experiment().model, 12, ("en", "hi"))
    cfg.heads["language"] = LanguageConfig()
    cfg.heads["emotion"] = ClassifyConfig(label="emotion", classes=("calm", "angry"))
    torch.manual_seed(0)
    return SpeechModel(cfg).eval()


def test_row_has_hypothesis_predictions_and_labels() -> None:
    audio = [torch.randn(n) * 0.1 for n in (16000, 9000, 12000)]
    tokens, langs = [[1], [2], [3]], [0, 1, -1]
    model, batch = model_with_classes(), make_batch(audio, tokens, langs, ["a", "b", "c"], sample_rate=16000)
    batch.labels = {"emotion": ["angry", None, "calm"]}
    ours = Recognizer(model=model, tokenizer=None, device=torch.device("cpu"))  # type: ignore[arg-type]
    method = ours.make_method(ours.choose_method("ctc"))
    rows = decode_batch(model, batch, method)
    with torch.inference_mode():
        encoded = model.encode_audio(batch.audio, batch.audio_lens)
    assert [row.hypothesis for row in rows] == greedy(model, encoded, "ctc", batch.langs)
    assert [row.labels for row in rows] == [
        {"language": "en", "emotion": "angry"},
        {"language": "hi", "emotion": None},
        {"language": None, "emotion": "calm"},
    ]
    for i, name in enumerate(("language", "emotion")):
        expected = model.head(name).predict(encoded if i == 0 else model.with_language(encoded, batch.langs))
        assert [row.predictions[name].label for row in rows] == [p.label for p in expected]
    predicted = [model.cfg.languages.index(row.predictions["language"].label) for row in rows]
    identified = decode_batch(model, batch, method, language="auto")
    assert [r.hypothesis for r in identified] == greedy(model, encoded, "ctc", torch.tensor(predicted))
    unknown = decode_batch(model, batch, method, language="unknown")
    assert [r.hypothesis for r in unknown] == greedy(model, encoded, "ctc")


def test_model_without_text_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp, data, run = tiny.experiment(), tmp_path / "data", tmp_path / "run"
    emotion = ClassifyConfig(label="emotion", classes=("calm", "angry"))
    exp.model.heads = {"language": LanguageConfig(), "mood": emotion}
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    manifest = tmp_path / "corpus" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:  # one of the four test utterances has no label, and one of the others is angry
        emotions = {"en-005": "angry", "en-011": "calm", "hi-005": "calm"}
        line["labels"] = {"emotion": emotions[line["id"]]} if line["id"] in emotions else {}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare(exp, tmp_path / "corpus", data)
    tokenizer(exp, data, run)
    pieces = load_tokenizer(run / "tokenizer.model")
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi")))
    with torch.no_grad():
        model.heads["language"].out.weight.zero_()
        model.heads["language"].out.bias[:] = torch.tensor([0.0, 4.0])
        model.heads["mood"].out.weight.zero_()
        model.heads["mood"].out.bias[:] = torch.tensor([4.0, 0.0])
    save_checkpoint(run / "best.pt", Checkpoint(model_config=model.cfg, tokenizer=pieces,
                    weights=model.state_dict(), step=0, notes={}))  # fmt: skip
    decode(exp, data, run)
    out = run / "decode" / "test"
    rows = [json.loads(line) for line in (out / "hyps.jsonl").read_text().splitlines()]
    assert rows and all("text" not in row and "tokens" not in row for row in rows)
    assert {row["predictions"]["language"]["label"] for row in rows} == {"hi"}
    assert {row["predictions"]["emotion"]["label"] for row in rows} == {"calm"}
    assert sorted(str(row["labels"]["emotion"]) for row in rows) == ["None", "angry", "calm", "calm"]
    capsys.readouterr()
    assert main(["score", "--run-dir", str(run), "--data", str(data)]) == 0
    assert capsys.readouterr().out.count("macro average") == 2 and not (out / "report.html").exists()
    result = json.loads((out / "result.json").read_text())
    assert result["labels"]["language"]["accuracy"] == 0.5 and result["split"] == "test"
    classes = result["labels"]["emotion"]["classes"]
    assert {name: (c["utterances"], c["accuracy"]) for name, c in classes.items()} == {
        "angry": (1, 0.0),
        "calm": (2, 1.0),
    }
    scores = score(run, show=False)
    assert scores.report is None and [label.macro for label in scores.labels] == [0.5, 0.5]
    assert main(["score", "--run-dir", str(run), "--split", "all"]) == 0
    assert "| emotion | 3 |" in capsys.readouterr().out
    exp.decode.method = "ctc"
    with pytest.raises(MayaError, match="decode.method=ctc reads a head of kind ctc, which this model lacks"):
        decode(exp, data, run)
    assert main(["evaluate", str(run), "--manifest", str(tmp_path / "corpus" / "manifest.jsonl")]) == 1
    assert "has no text head to evaluate" in capsys.readouterr().err
    ours = Recognizer(model=model.eval(), tokenizer=pieces, device=torch.device("cpu"))
    with pytest.raises(MayaError, match="this model cannot decode: it has no head for it that writes text"):
        ours.transcribe([torch.zeros(16000)])


def test_heads_that_were_never_trained_predict_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_with_classes()
    pieces = make_tokenizer()
    model = SpeechModel(with_vocabulary(model.cfg, pieces.vocab_size, ("en", "hi")))
    checkpoint = Checkpoint(
        model_config=model.cfg, tokenizer=pieces, weights=model.state_dict(), step=3,
        notes={"trained": ["transducer", "ctc", "emotion"]},
    )  # fmt: skip
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    ours = maya.load(tmp_path / "best.pt", "cpu")
    assert "best.pt: not trained yet: language" in caplog.text
    batch = make_batch([torch.randn(9000) * 0.1], [[1]], [0], ["a"], sample_rate=16000)
    (row,) = decode_batch(ours.model, batch, None)
    assert row.predictions.keys() == row.labels.keys() == {"emotion"}
    with pytest.raises(MayaError, match="cannot identify languages: its head language was never trained"):
        ours.transcribe(batch.audio, "auto")
    with pytest.raises(MayaError, match="never trained"):
        decode_batch(ours.model, batch, None, language="auto")
    converted = Conversion(checkpoint=checkpoint, report=ConversionReport(title="", components=[], facts={}))
    assert converted.recognizer("cpu").model.untrained == ("language",)


def test_identified_languages_may_be_others_than_the_models() -> None:
    """A language head of a user's own may tell more languages apart than the model has."""
    model = model_with_classes()
    model.heads["language"].classes = ("fr", "de")  # type: ignore[assignment]
    batch = make_batch([torch.randn(9000) * 0.1], [[1]], [0], ["a"], sample_rate=16000)
    ours = Recognizer(model=model, tokenizer=make_tokenizer(), device=torch.device("cpu"))
    method = ours.make_method(ours.choose_method("ctc"))
    auto, unknown = (decode_batch(model, batch, method, language=name) for name in ("auto", "unknown"))
    assert [row.hypothesis for row in auto] == [row.hypothesis for row in unknown]
    assert auto[0].predictions["language"].label in ("fr", "de")
    assert ours.transcribe(batch.audio, "auto")[0].language in ("fr", "de")
