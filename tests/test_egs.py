"""The folders of egs/ have the same parts, and every experiment builds and can be saved."""

import ast
import importlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
FOLDERS = sorted(p for p in (REPO / "egs").iterdir() if p.is_dir() and p.name != "__pycache__")


def experiments() -> list[tuple[str, str]]:
    """(module, function) of each public function at the top of a file of egs/ that takes nothing and returns
    an Experiment."""
    return [
        (f"egs.{path.parent.name}.{path.stem}", n.name)
        for path in sorted((REPO / "egs").glob("*/*.py"))
        for n in ast.parse(path.read_text()).body
        if isinstance(n, ast.FunctionDef) and not n.name.startswith("_") and not ast.unparse(n.args)
        if n.returns is not None and ast.unparse(n.returns) == "Experiment"
    ]


def shape_errors(folder: Path) -> list[str]:
    """Missing and forbidden parts of a corpus folder."""
    errors = [
        f"{folder.name} has no {part}"
        for part in ("README.md", "data.py", "run.sh")
        if not (folder / part).is_file()
    ]
    if (folder / "run.sh").is_file() and not os.access(folder / "run.sh", os.X_OK):
        errors.append(f"{folder.name}/run.sh is not executable")
    if not folder.name.isidentifier():
        errors.append(f"{folder.name} cannot be imported: rename it")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            errors.append(f"{path.relative_to(folder.parent)} is a link")
        elif path.suffix == ".py":
            classes = [n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
            errors += [
                f"{path.relative_to(folder.parent)} defines class {name}: move it to recipes/ or maya/"
                for name in classes
            ]
    return errors


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_folder_has_the_common_shape(folder: Path) -> None:
    assert shape_errors(folder) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_run_sh_has_help_and_refuses_unknown_options(folder: Path, tmp_path: Path) -> None:
    run = folder / "run.sh"
    shown = subprocess.run([run, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert shown.returncode == 0, shown.stderr
    for word in ("--stage", "--stop-stage", f"./egs/{folder.name}/run.sh"):
        assert word in shown.stdout
    for slip, complaint in ((["--stagee", "3"], "unknown option --stagee"), (["--stage"], "needs a value")):
        refused = subprocess.run([run, *slip], cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert refused.returncode == 1 and complaint in refused.stderr


@pytest.mark.parametrize(("module", "function"), experiments(), ids=":".join)
def test_experiment_round_trips_and_builds(module: str, function: str) -> None:
    from maya.config import from_dict, to_dict
    from maya.recipes.experiment import Experiment, build_model, with_vocabulary

    loaded = importlib.import_module(module)
    make = getattr(loaded, function)
    experiment = make()
    assert isinstance(experiment, Experiment)
    # Results are filed under its name; experiment() may be one of the others, the default.
    folder, file = module.split(".")[1:]
    functions = [f for m, f in experiments() if m == module and (f == function or function == "experiment")]
    names = {f"{folder}/{file}" + ("" if f == "experiment" else f"_{f}") for f in functions}
    assert experiment.name in names
    stored = json.loads(json.dumps(to_dict(experiment), allow_nan=False))
    assert from_dict(type(experiment), stored) == experiment
    assert make() is not experiment  # fresh each time: a change must not leak into the next
    if any(head.places for head in experiment.model.heads.values()):
        return  # its language model would have to be fetched
    model_config = with_vocabulary(experiment.model, experiment.tokenizer.vocab_size, experiment.languages)
    with torch.device("meta"):
        model = build_model(model_config)
    assert sum(p.numel() for p in model.parameters()) > 100_000
    assert all(p.is_meta for p in model.parameters())


def test_experiments_are_collected() -> None:
    assert len(experiments()) >= 30


def test_checker_finds_a_bad_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-corpus"
    folder.mkdir()
    (folder / "run.sh").write_text("#!/usr/bin/env bash\n")
    (folder / "data.py").write_text("class Corpus:\n    pass\n")
    (folder / "link.py").symlink_to(folder / "data.py")
    errors = "\n".join(shape_errors(folder))
    for complaint in (
        "no README.md",
        "not executable",
        "cannot be imported",
        "link.py is a link",
        "class Corpus",
    ):
        assert complaint in errors
