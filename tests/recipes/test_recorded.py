"""With only the run folder, commands read experiment, data path and user code from it."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.recipes import experiment_file
from maya.recipes.cli import main
from maya.recipes.experiment_file import RECORD, import_recorded
from maya.recipes.recorded import data_of, experiment_of
from tests import tones

MINE = """import pathlib
from tests import tiny
from beside import MARK

pathlib.Path(MARK).write_text("imported")


def experiment():
    return tiny.experiment()


def longer():
    exp = tiny.experiment()
    exp.decode.method = "ctc"
    return exp
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a user's own file, code/mine.py, which writes the file `mark` when it is imported."""
    top = tmp_path_factory.mktemp("recorded")
    tones.make_corpus(top / "corpus")
    (top / "own").mkdir()
    (top / "own" / "mine.py").write_text(MINE)
    (top / "own" / "beside.py").write_text(f"MARK = {str(top / 'mark')!r}\n")
    experiment = ["--experiment", f"{top / 'own' / 'mine.py'}:longer"]
    folders = ["--data", str(top / "data"), "--run-dir", str(top / "run")]
    assert main(["prepare", *experiment, "--corpus", str(top / "corpus"), "--out", str(top / "data")]) == 0
    assert main(["tokenizer", *experiment, *folders]) == 0
    assert main(["train", *experiment, *folders, "--cpu", "--set", "decode.max_seconds=60"]) == 0
    return top


@pytest.fixture
def mark(trained: Path) -> Path:
    path = trained / "mark"
    path.unlink(missing_ok=True)
    return path


def test_run_folder_is_enough(trained: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained / "run")
    assert main(["average", run]) == 0
    assert mark.exists(), "the file of the experiment is imported before a checkpoint is loaded"
    assert main(["decode", run]) == 0
    assert "test by ctc" in capsys.readouterr().out, "the recorded experiment decodes with CTC"
    assert main(["score", run]) == 0
    assert main(["score", "--run-dir", run]) == 0
    assert main(["average", "--run-dir", run]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["decode", run, "--set", "decode.method=transducer"]) == 0
    assert "test by transducer" in capsys.readouterr().out
    assert main(["plan", run]) == 0


@pytest.mark.parametrize("command", ["info", "plan", "average", "decode"])
def test_the_recorded_file_is_imported(command: str, trained: Path, mark: Path) -> None:
    assert main([command, str(trained / "run")]) == 0
    assert mark.exists()


def test_the_recorded_experiment_has_the_overrides_of_training(trained: Path) -> None:
    experiment = experiment_of(trained / "run", None, ["train.lr=0.25"])
    assert (experiment.decode.method, experiment.decode.max_seconds) == ("ctc", 60.0)
    assert experiment.train.lr == 0.25
    assert data_of(trained / "run", None) == trained / "data"
    assert data_of(trained / "run", Path("other")) == Path("other")
    assert experiment_of(trained / "run", "tests.tiny", []).decode.method == "auto"


def test_the_file_and_its_neighbours_are_copied(trained: Path) -> None:
    code = trained / "run" / "code"
    assert {path.name for path in code.iterdir()} == {"mine.py", "beside.py", "source.json"}
    assert (code / "mine.py").read_text() == MINE
    assert json.loads((trained / "run" / RECORD).read_text())["file"] == str(trained / "own" / "mine.py")


def test_missing_file_is_named_and_the_copy_is_not_executed(
    trained: Path, mark: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "run" / "code", run / "code")
    for file in (tmp_path / "gone" / "mine.py", run / "code" / "mine.py", Path("run/code/mine.py")):
        caplog.clear()
        (run / RECORD).write_text(json.dumps({"file": str(file), "digest": ""}))
        with caplog.at_level(logging.WARNING):
            import_recorded(run)
        assert f"--experiment {run / 'code' / 'mine.py'}" in caplog.text and "missing" in caplog.text
        assert not mark.exists()
    import_recorded(run, str(run / "code" / "mine.py"))
    assert mark.exists()


def test_a_link_into_the_run_folder_is_not_followed(trained: Path, mark: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "run" / "code", run / "code")
    (tmp_path / "mine.py").symlink_to(run / "code" / "mine.py")
    (run / RECORD).write_text(json.dumps({"file": str(tmp_path / "mine.py"), "digest": ""}))
    import_recorded(run)
    assert not mark.exists()


@pytest.mark.parametrize("changed", ["mine.py", "beside.py"])
def test_changed_file_gives_a_warning(
    changed: str, trained: Path, mark: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained / "own", tmp_path / "own")
    experiment_file.record_file(tmp_path / "run", tmp_path / "own" / "mine.py")
    with (tmp_path / "own" / changed).open("a") as file:
        file.write("# another line\n")
    with caplog.at_level(logging.WARNING):
        import_recorded(tmp_path / "run" / "best.pt")
    assert "mine.py has changed since" in caplog.text and mark.exists()


def test_an_experiment_of_egs_is_not_recorded(tmp_path: Path) -> None:
    experiment_file.import_file("egs.indic12.mini")
    assert experiment_file.own_file("egs.indic12.mini") is None and experiment_file.own_file("mini") is None
    experiment_file.record_file(tmp_path, None)
    import_recorded(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_without_a_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match=r"config\.json is missing or damaged; name the experiment"):
        experiment_of(tmp_path, None, [])
    with pytest.raises(MayaError, match="does not record its data; name the folder with --data"):
        data_of(tmp_path, None)
    (tmp_path / "environment.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    with pytest.raises(MayaError, match="is missing; name the folder with --data"):
        data_of(tmp_path, None)


def test_a_configuration_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "model": {"ctc_weight": 0.3}}))
    with pytest.raises(MayaError, match=r"config.json cannot be read: .*'ctc_weight'.*--experiment"):
        experiment_of(tmp_path, None, [])


@pytest.mark.parametrize("spoiled", ["mine.py", "beside.py"])
def test_a_mistake_in_the_recorded_file_is_one_sentence(
    spoiled: str, trained: Path, mark: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "own", tmp_path / "own")
    file = tmp_path / "own" / "mine.py"
    experiment_file.record_file(tmp_path / "run", file)
    (tmp_path / "own" / spoiled).write_text("x = 1\ndef (\n")
    with pytest.raises(MayaError, match=rf"{spoiled}, line 2: invalid syntax"):
        import_recorded(tmp_path / "run")
    assert not mark.exists()
    experiment_file.record_file(tmp_path / "other", file)  # a file may import it where it is needed
    assert (tmp_path / "other" / "code" / "mine.py").is_file()
