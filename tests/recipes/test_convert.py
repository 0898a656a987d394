"""`maya convert` and `maya export`: their files can be used by the other commands."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import maya
from maya.errors import MayaError
from maya.models.speech_model import build_model
from maya.recipes.cli import main
from maya.recipes.convert import open_checkpoint
from maya.recipes.train import start
from tests import tiny
from tests.convert.archives import archive, tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("nemo") / "model.nemo")


def test_nemo_to_a_checkpoint_and_back(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "nemo", str(source), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for part in ("EncDecHybridRNNTCTCBPEModel", "2 layers × 32", "front end", "best.pt"):
        assert part in printed
    report = json.loads((tmp_path / "out" / "convert.json").read_text())
    assert [part["name"] for part in report["components"]][:2] == ["features", "encoder"]
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "source      model.nemo" in capsys.readouterr().out
    assert main(["export", "nemo", str(tmp_path / "out"), str(tmp_path / "again.nemo")]) == 0
    first, second = (maya.load(p, "cpu").model.state_dict() for p in (source, tmp_path / "again.nemo"))
    assert first.keys() == second.keys() and all(torch.equal(first[k], v) for k, v in second.items())
    assert main(["convert", "nemo", str(source), str(tmp_path / "out")]) == 0  # a conversion may be repeated


def test_an_encoder_for_a_new_vocabulary(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer("hi", 30).save(tmp_path / "tokenizer.model")
    made = ["convert", "nemo", str(source), str(tmp_path / "out"), "--encoder-only"]
    assert main([*made, "--tokenizer", str(tmp_path / "tokenizer.model")]) == 0
    assert "new: transducer, ctc" in capsys.readouterr().out
    assert maya.load(tmp_path / "out", "cpu").tokenizer.vocab_size == 30
    assert "not trained yet: transducer, ctc" in caplog.text


def test_a_run_is_not_overwritten(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.pt").write_bytes(b"months of work")
    assert main(["convert", "nemo", str(source), str(tmp_path)]) == 1
    assert "holds a training run" in capsys.readouterr().err
    assert (tmp_path / "best.pt").read_bytes() == b"months of work"


def test_onnx_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    source = archive(tmp_path / "model.nemo", transducer="none", ctc_weight=1.0)
    assert main(["export", "onnx", str(source), str(tmp_path / "onnx")]) == 0
    assert "model.onnx" in capsys.readouterr().out
    assert (tmp_path / "onnx" / "tokens.txt").is_file()


def test_onnx_without_its_packages(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "onnx", str(source), str(tmp_path)]) == 1
    assert "maya-asr[onnx]" in capsys.readouterr().err


def test_archive_can_replace_a_checkpoint(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(source)]) == 0
    printed = capsys.readouterr().out
    assert f"file        {source}" in printed and "source      model.nemo" in printed
    exp = tiny.experiment()
    archive = open_checkpoint(source)
    exp.model = replace(archive.model_config, vocab_size=55)  # another vocabulary
    exp.train.init_from, exp.train.init_modules = str(source), ("encoder",)
    model = build_model(exp.model)
    facts = start(model, exp, tmp_path / "run", main=False)
    encoder = {k: v for k, v in archive.weights.items() if k.startswith("encoder.")}
    assert facts["init_parameters"] == sum(v.numel() for v in encoder.values())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in encoder.items())
    exp.train.init_from = str(tmp_path / "none.nemo")
    with pytest.raises(MayaError, match="none.nemo"):
        start(model, exp, tmp_path / "run", main=False)
