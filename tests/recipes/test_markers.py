"""Decoding and scoring run again after a change of any input."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import maya
from maya.data.table.table import Table, part_path, write_table
from maya.decode.ctc.beam import BeamConfig
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.decode import decode, make_method
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, digest, earlier_inputs, is_done, mark_done, stamp
from maya.recipes.score import score
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny


def save(run: Path, seed: int) -> None:
    """Save an untrained model."""
    experiment, pieces = tiny.experiment(), load_tokenizer(run / "tokenizer.model")
    torch.manual_seed(seed)
    model = build_model(with_vocabulary(experiment.model, pieces.vocab_size, experiment.languages))
    made = Checkpoint(
        model_config=model.cfg, tokenizer=pieces, weights=model.state_dict(), step=1, notes={}
    )  # fmt: skip
    save_checkpoint(run / "best.pt", made)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a run that was decoded and scored."""
    top = tmp_path_factory.mktemp("markers")
    experiment = tiny.experiment()
    tiny.prepare_run(experiment, top, utterances=12)
    save(top / "run", 0)
    return top


@pytest.fixture
def top(decoded: Path) -> Path:
    """The same folder, with decoding and scoring up to date."""
    decode(tiny.experiment(), decoded / "data", decoded / "run")
    score(decoded / "run", data=decoded / "data")
    return decoded


def rewrite(top: Path, part: str, text: str) -> None:
    """Change the text of the first utterance of a part."""
    path = part_path(top / "data", part)
    entries = list(Table.open(path).entries())
    write_table(path, [entries[0]._replace(text=text), *entries[1:]])


DECODING: dict[str, Callable[[Path, Experiment], object]] = {
    "another checkpoint": lambda top, _: save(top / "run", 1),
    "another text": lambda top, _: rewrite(top, "test", "aa bb"),
    "another audio file": lambda top, _: os.utime(Table.open(top / "data/test.parquet").entry(0).path),
    "another method": lambda _, exp: setattr(exp.decode, "method", "ctc"),
    "hypotheses removed": lambda top, _: (top / "run/decode/test/hyps.jsonl").unlink(),
    "facts removed": lambda top, _: (top / "run/decode/test/decode.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("kind", DECODING)
def test_changed_input_repeats_decoding(top: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    experiment = tiny.experiment()
    capsys.readouterr()
    decode(experiment, top / "data", top / "run")
    assert "up to date" in capsys.readouterr().out
    DECODING[kind](top, experiment)
    decode(experiment, top / "data", top / "run")
    assert "up to date" not in capsys.readouterr().out
    decode(experiment, top / "data", top / "run")
    assert "up to date" in capsys.readouterr().out


def test_changed_language_model_texts_repeat_decoding(
    top: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy search replaces beam search, because only the inputs matter here."""
    experiment = tiny.experiment()
    greedy = make_method(experiment.decode, maya.load(top / "run"), None)
    monkeypatch.setattr("maya.recipes.decode.make_method", lambda *_: greedy)
    beam = BeamConfig(lm_order=2)
    experiment.decode.method, experiment.decode.methods["ctc_beam"] = "ctc_beam", beam
    for change, again in ((lambda: None, False), (lambda: rewrite(top, "train", "abc"), True),
                          (lambda: setattr(beam, "lm_order", 3), True)):  # fmt: skip
        decode(experiment, top / "data", top / "run")
        change()
        capsys.readouterr()
        decode(experiment, top / "data", top / "run")
        assert ("up to date" not in capsys.readouterr().out) == again


def test_copied_checkpoint_is_the_same_input(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(top / "run/best.pt", top / "copy.pt")
    os.replace(top / "copy.pt", top / "run/best.pt")
    capsys.readouterr()
    decode(tiny.experiment(), top / "data", top / "run")
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hyps.jsonl", "result.json", "report.html", "metrics.jsonl"])
def test_changed_input_repeats_scoring(top: Path, name: str) -> None:
    out = top / "run/decode/test"
    page = out / "report.html"
    before = page.stat().st_mtime_ns
    score(top / "run", data=top / "data")
    assert page.stat().st_mtime_ns == before
    if name == "hyps.jsonl":
        lines = (out / name).read_text().splitlines(keepends=True)
        (out / name).write_text("".join(lines[1:]))
    elif name == "metrics.jsonl":
        (top / "run" / name).write_text('{"kind": "train", "step": 1, "loss": 3.0}\n')
    else:
        (out / name).unlink()
    score(top / "run", data=top / "data")
    assert page.stat().st_mtime_ns > before and (out / "result.json").is_file()


def test_hypotheses_of_other_data_are_reported(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "these hypotheses are of other data than"
    capsys.readouterr()
    score(top / "run", data=top / "data")
    assert said not in capsys.readouterr().out
    rewrite(top, "test", "ab ab ab")
    score(top / "run", data=top / "data")
    assert said in capsys.readouterr().out


def test_empty_split_is_refused(top: Path, tmp_path: Path) -> None:
    shutil.copytree(top / "data", tmp_path / "data")
    write_table(tmp_path / "data/test.parquet", [])
    with pytest.raises(MayaError, match=r"data has no test set to decode: test\.parquet has no rows"):
        decode(tiny.experiment(), tmp_path / "data", top / "run")


def test_marker_depends_on_inputs_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, inputs = tmp_path / "stage.json", {"b": [1, None], "a": "हाँ"}
    assert not is_done(marker, inputs) and earlier_inputs(marker) == {}
    mark_done(marker, inputs)
    assert is_done(marker, {"a": "हाँ", "b": [1, None]}) and earlier_inputs(marker) == inputs
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    for other in ({"a": "हाँ"}, inputs | {"c": 1}, inputs | {"b": [1, 0]}):
        assert not is_done(marker, other)
    for damaged in ("", "[]", '{"digest": 1}', "{}", "null", '"x"'):
        (tmp_path / "damaged").write_text(damaged)
        assert not is_done(tmp_path / "damaged", inputs) and earlier_inputs(tmp_path / "damaged") == {}
    monkeypatch.setattr("maya.recipes.markers.__version__", "0.0")
    assert not is_done(marker, inputs)
    assert content(marker) == content(marker) != content(tmp_path / "damaged")
    assert content(tmp_path / "absent") == stamp(tmp_path / "absent") == "absent"
    assert json.loads(marker.read_text())["inputs"] == inputs
