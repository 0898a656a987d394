"""Decoding of several sets by several methods, and one table of the scores."""

from pathlib import Path

import pytest
import torch

from maya.decode.ctc.beam import BeamConfig
from maya.decode.head_choice import TrainedHeads
from maya.decode.methods import possible_methods
from maya.decode.transducer.greedy import GreedyTransducerConfig
from maya.errors import MayaError
from maya.heads import TransducerConfig
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.cli import main
from maya.recipes.decode import decode_all
from maya.recipes.score import score, score_all, wer_table
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, and a run with an untrained model of an RNN-T and a CTC head."""
    top = tmp_path_factory.mktemp("decode_all")
    exp = tiny.experiment()
    exp.model.head("transducer", TransducerConfig).loss = "rnnt"
    tiny.prepare_run(exp, top, utterances=12)
    pieces = load_tokenizer(top / "run" / "tokenizer.model")
    torch.manual_seed(0)
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi")))
    save_checkpoint(top / "run" / "best.pt", Checkpoint(model_config=model.cfg, tokenizer=pieces,
                    weights=model.state_dict(), step=0, notes={}))  # fmt: skip
    return top


def test_every_method_on_every_set(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp, run = tiny.experiment(), top / "run"
    exp.decode.methods["ctc_beam"] = BeamConfig(lm_order=0)
    exp.decode.methods["transducer"] = GreedyTransducerConfig(max_symbols=2)
    decode_all(exp, top / "data", run, splits=["dev", "test"], methods=["all"])
    folders = {str(path.parent.relative_to(run / "decode")) for path in run.rglob("hyps.jsonl")}
    methods = ("transducer", "alsd", "maes", "modified_beam", "ctc", "ctc_beam")
    assert folders == {f"{method}/{split}" for method in methods for split in ("dev", "test")}
    assert exp.decode.method == "auto"  # the caller's experiment is as it was
    capsys.readouterr()
    lines = score_all(run, data=top / "data").splitlines()
    assert lines[0] == "| method | dev | test |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(methods)
    assert (run / "decode" / "wer.md").read_text().splitlines() == lines
    assert all((run / "decode" / name / "report.html").is_file() for name in folders)
    shown = capsys.readouterr().out
    assert lines[2] in shown and "TensorBoard" not in shown  # one table, not one for each set


def test_score_table_places_each_rate(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--experiment", "tests.tiny", "--data", str(top / "data"), "--run-dir", str(top / "run")]
    less = ["--set", "decode.methods.ctc_beam.lm_order=0", "--set", "decode.methods.transducer.max_symbols=2"]
    assert main(["decode", *options, *less, "--split", "dev", "test", "--method", "ctc"]) == 0
    reports = {
        split: score(top / "run", split=f"ctc/{split}", show=False).report for split in ("dev", "test")
    }
    line = wer_table({("ctc", "test"): reports["test"], ("transducer", "dev"): reports["dev"]}).splitlines()
    assert line[2].startswith(f"| transducer | {100 * reports['dev'].macro_wer:.2f} [") and line[2].endswith(
        "|  |"
    )
    assert line[3].startswith(f"| ctc |  | {100 * reports['test'].macro_wer:.2f} [")
    capsys.readouterr()
    assert main(["score", "--run-dir", str(top / "run"), "--split", "all"]) == 0
    assert "| ctc | " in capsys.readouterr().out


def test_unknown_methods_and_tables_are_refused(top: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MayaError,
        match=r"unknown decoding method 'beem'; expected one of auto, transducer, alsd, maes, modified_beam",
    ):
        decode_all(tiny.experiment(), top / "data", top / "run", splits=["dev"], methods=["beem"])
    with pytest.raises(
        MayaError, match="decode.method=attention reads a head of kind attention, which this model lacks"
    ):
        decode_all(tiny.experiment(), top / "data", top / "run", splits=["dev"], methods=["attention"])
    with pytest.raises(MayaError, match="there is no table .*dev-clean"):
        decode_all(tiny.experiment(), top / "data", top / "run", splits=["dev-clean"], methods=["ctc"])
    with pytest.raises(MayaError, match="holds no hypotheses"):
        score_all(tmp_path)
    tdt = tiny.experiment().model
    both = TrainedHeads(heads=("transducer", "ctc"), trained=("transducer", "ctc"))
    assert possible_methods(tdt, both) == [
        "transducer", "alsd", "maes", "modified_beam", "ctc", "ctc_beam",
    ]  # fmt: skip
    ctc = TrainedHeads(heads=("transducer", "ctc"), trained=("ctc",))
    assert possible_methods(tdt, ctc) == ["ctc", "ctc_beam"]


def test_named_output_folder(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", str(top / "data"), "--run-dir", str(top / "run")]
    command = [
        "decode",
        "--experiment",
        "tests.tiny",
        *where,
        "--split",
        "dev",
        "--set",
        "decode.methods.transducer.max_symbols=2",
    ]
    command += ["--set", "model.heads.transducer.loss=rnnt"]
    assert main([*command, "--into", "other"]) == 0
    assert (top / "run" / "decode" / "other" / "dev" / "hyps.jsonl").is_file()
    capsys.readouterr()
    assert main([*command, "--into", "other", "--method", "ctc"]) == 1
    assert "leave --into out" in capsys.readouterr().err
    assert main([*command, "--into", "fast", "--set", "decode.fast_weight_updates=false"]) == 1
    assert "no fast weights" in capsys.readouterr().err
