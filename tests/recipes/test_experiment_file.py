"""`--experiment` takes a module, a file from anywhere, and a bare name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.recipes import cli, experiment_file
from maya.recipes.experiment import load_experiment

PLAIN = """from maya.recipes.experiment import Experiment


def experiment():
    return Experiment(name={name!r})
"""
ASSIGNS = PLAIN.format(name="a").replace("return", "exp =") + "    exp.{assignment}\n    return exp\n"


@pytest.fixture(autouse=True)
def _imports_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore sys.path and sys.modules after each test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(experiment_file, "_folders", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("maya", "torch", "transformers", "egs")):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "name", ["mine.py", "./mine.py", "mine", "sub/../mine.py", "./mine", "{top}/mine.py"]
)
def test_a_file_of_the_current_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.py", PLAIN.format(name="a"))
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(name.format(top=tmp_path), ["train.lr=0.5"])
    assert experiment.name == "a" and experiment.train.lr == 0.5


def test_a_file_of_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "other" / "my-exp.v2.py", PLAIN.format(name="b"))
    write(tmp_path / "here" / "x", "")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("../other/my-exp.v2.py", "../other/my-exp.v2", str(tmp_path / "other" / "my-exp.v2.py")):
        assert load_experiment(name, []).name == "b"


@pytest.mark.parametrize("name", ["egs.indic12.mini", "egs/indic12/mini.py", "egs/indic12/mini", "mini"])
def test_experiments_of_egs(name: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    assert load_experiment(name, []).name == "indic12/mini"


@pytest.mark.parametrize("name", ["egs.indic12.mini", "mini", "{repo}/egs/librispeech/zipformer.py:tiny"])
def test_egs_from_another_folder(
    name: str, tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_experiment(name.format(repo=repo), []).name in ("indic12/mini", "librispeech/zipformer_tiny")


@pytest.mark.parametrize("line", ["from sizes import WIDTH", "from .sizes import WIDTH", "import sizes"])
def test_files_beside_it_can_be_imported(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the same names in another folder do not interfere, in either order."""
    monkeypatch.chdir(tmp_path)
    width = "sizes.WIDTH" if line == "import sizes" else "WIDTH"
    for folder, number in (("one", 128), ("two", 256)):
        write(tmp_path / folder / "sizes.py", f"from deeper.more import MORE\nWIDTH = {number} + MORE")
        write(tmp_path / folder / "deeper" / "more.py", f"MORE = {number // 128}\n")
        write(
            tmp_path / folder / "mine.py",
            f"{line}\nfrom maya.recipes.experiment import Experiment\n\n\ndef experiment():\n"
            f"    exp = Experiment(name='x')\n    exp.model.encoder.d_model = {width}\n    return exp\n",
        )
    for folder, width_expected in (("one", 129), ("two", 258), ("one", 129)):
        exp = load_experiment(f"{folder}/mine.py", [])
        assert exp.model.encoder.d_model == width_expected, folder


def test_a_file_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for top, name in (("one", "a"), ("two", "b")):
        write(tmp_path / top / "lab" / "__init__.py", "")
        write(tmp_path / top / "lab" / "names.py", f"NAME = {name!r}\n")
        write(
            tmp_path / top / "lab" / "mine.py",
            "from lab.names import NAME\nfrom . import names\n"
            "from maya.recipes.experiment import Experiment\n"
            "\n\ndef experiment():\n    assert names.NAME == NAME\n    return Experiment(name=NAME)\n",
        )
    assert load_experiment("one/lab/mine.py", []).name == "a"
    assert load_experiment("two/lab/mine.py", []).name == "b"


def test_sibling_file_does_not_shadow_a_module_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called json.py beside the experiment must not become the json of a library imported later."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "this.py", "raise RuntimeError('the wrong file')\n")
    write(tmp_path / "mine.py", PLAIN.format(name="a"))
    assert load_experiment("mine.py", []).name == "a"
    sys.modules.pop("this", None)
    import this  # noqa: F401, PLC0415


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\n", "mine.py has no function experiment(); add one that returns an Experiment"),
        ("experiment = 3\n", "mine.py has no function experiment()"),
        ("def experiment():\n    return 3\n", "mine.py returns int, which is not an Experiment"),
        ("def experiment(:\n", "mine.py, line 1: invalid syntax"),
        ("import nonesuch\n", "mine.py, line 1: No module named 'nonesuch'"),
        ("def experiment():\n    return Expriment()\n", "mine.py, line 2: NameError: name 'Expriment'"),
        (
            ASSIGNS.format(assignment="train.lrr = 1"),
            "mine.py, line 6: AttributeError: TrainConfig has no field 'lrr'; did you mean 'lr'?",
        ),
        (
            PLAIN.format(name="a").replace("name=", "nmae="),
            "mine.py, line 5: TypeError: Experiment has no field 'nmae'; did you mean 'name'?",
        ),
        (
            ASSIGNS.format(assignment="train.lr = -1"),
            "mine.py, line 6: TrainConfig.lr must be above 0, not -1",
        ),
    ],
)
def test_errors_in_the_file_are_one_sentence(
    text: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", text)
    assert cli.main(["plan", "--experiment", "./mine.py"]) == 1
    shown = capsys.readouterr().err
    assert sentence in shown and shown.count("\n") == 1 and "Traceback" not in shown


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mien.py", "there is no experiment file {top}/mien.py; did you mean 'mine'?"),
        ("./sub/mine.py", "there is no experiment file {top}/sub/mine.py"),
        ("egs/indic12", "there is no experiment file {top}/egs/indic12.py"),
        ("./sub", "./sub is a folder, name a file in it"),
        ("egs.indic12.minni", "there is no experiment 'egs.indic12.minni'; did you mean 'egs.indic12.mini'?"),
        ("egs.nothing.x", "there is no experiment 'egs.nothing.x'; give --experiment a file"),
        ("minni", "there is no experiment 'minni'; did you mean 'mini'?"),
        ("./notes.txt", "./notes.txt is not a Python file"),
    ],
)
def test_unknown_experiment_is_refused(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", PLAIN.format(name="a"))
    write(tmp_path / "sub" / "x.txt", "")
    write(tmp_path / "notes.txt", "")
    with pytest.raises(MayaError) as refused:
        load_experiment(name, [])
    assert sentence.format(top=tmp_path) in str(refused.value)


def test_a_function_of_a_file_or_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PLAIN.format(name="a") + "\n\ndef large():\n    return Experiment(name='large')\n"
    write(tmp_path / "mine.py", text)
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py:large", "./mine.py:large", "mine:large", f"{tmp_path}/mine.py:large"):
        assert load_experiment(name, []).name == "large"
    assert load_experiment("mine.py:experiment", []).name == load_experiment("mine", []).name == "a"
    assert load_experiment("egs.indic12.mini:experiment", []).name == "indic12/mini"
    with pytest.raises(MayaError, match=r"mine\.py has no function larg\(\); did you mean 'large'\?"):
        load_experiment("mine.py:larg", [])
    with pytest.raises(MayaError, match=r"there is no experiment file .*other\.py"):
        load_experiment("./other.py:large", [])
