import json
from pathlib import Path

import pytest

from maya.recipes.cli import main
from maya.recipes.diff import ABSENT, differences


def test_different_leaves() -> None:
    first = {"name": "a", "model": {"d": 144, "kinds": ["x"], "old": 1}, "lr": 1.0, "on": True}
    second = {"name": "a", "model": {"d": 176, "kinds": ["x", "y"], "new": None}, "lr": 1, "on": 1}
    assert differences(first, second) == [
        ("lr", "1.0", "1"),
        ("model.d", "144", "176"),
        ("model.kinds", '["x"]', '["x", "y"]'),
        ("model.new", ABSENT, "null"),
        ("model.old", "1", ABSENT),
        ("on", "true", "1"),
    ]
    assert differences(first, first) == []


def test_group_against_value() -> None:
    assert differences({"a": {"b": 1}}, {"a": None}) == [("a", '{"b": 1}', "null")]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "other.json"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"train": {"lr": 0.001}}))
    file.write_text(json.dumps({"train": {"lr": 0.003}}))
    assert main(["diff", str(run), str(file)]) == 1
    assert capsys.readouterr().out == "train.lr  0.001 -> 0.003\n"
    assert main(["diff", str(run), str(run)]) == 0
    assert main(["diff", str(run), str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    file.write_text("{")
    assert main(["diff", str(run), str(file)]) == 2
    assert "is not JSON" in capsys.readouterr().err
