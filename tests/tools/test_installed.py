"""Maya installed as a package, without a checkout: commands work and egs/ experiments load."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def site(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed a copy of the checkout."""
    top = tmp_path_factory.mktemp("installed")
    for folder in ("maya", "kernels", "recipes", "egs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repo / folder, top / "checkout" / folder, ignore=ignore)
    for file in ("setup.py", "pyproject.toml"):
        shutil.copy(repo / file, top / "checkout" / file)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(top / "site")]
    subprocess.run([*pip, str(top / "checkout")], check=True, cwd=top)
    shutil.rmtree(top / "checkout")
    return top / "site"


def run(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200)


def test_all_modules_are_installed(site: Path, repo: Path) -> None:
    for folder, target in (("maya", "maya"), *((f, f"maya/{f}") for f in ("kernels", "recipes", "egs"))):
        files = {path.relative_to(repo / folder) for path in (repo / folder).rglob("*.py")}
        installed = {path.relative_to(site / target) for path in (site / target).rglob("*.py")}
        assert files <= installed, files - installed


def test_files_that_modules_read_are_installed(site: Path, repo: Path) -> None:
    """Templates, scripts and tables beside the code: everything under maya/ and kernels/ but notes."""
    notes = (".py", ".pyc", ".md", ".typed")
    for folder, target in (("maya", "maya"), ("kernels", "maya/kernels")):
        every = ((repo / folder).rglob("*"), (site / target).rglob("*"))
        files, installed = (
            {str(path.relative_to(top)) for path in paths if path.is_file() and path.suffix not in notes}
            for top, paths in zip((repo / folder, site / target), every, strict=True)
        )
        assert files and files <= installed, files - installed
    code = "from maya.score.page.write import STATIC, script; print(STATIC, len(script()))"
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=site, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(str(site)), done.stdout + done.stderr


EXPERIMENTS = ["mini", "egs.digits.lact", "maya.egs.indic12.large", "egs.librispeech.lact:tiny"]
LOAD = "import sys\nfrom maya.recipes.experiment import load_experiment\n"
LOAD += "for name in sys.argv[1:]:\n    print(load_experiment(name, []).name)"


def load(site: Path, cwd: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD, *names]
    env = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200)


def test_egs_experiments_load(site: Path, tmp_path: Path) -> None:
    done = load(site, tmp_path, *EXPERIMENTS)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(EXPERIMENTS), done.stderr


def test_the_size_of_an_installed_experiment(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "maya.recipes.cli", "plan", "mini")
    assert done.returncode == 0 and "parameters" in done.stdout, done.stderr


def test_a_folder_egs_of_another_project_does_not_hide_them(site: Path, tmp_path: Path) -> None:
    """As when a user of icefall stands in its checkout. A file of this name there would come first."""
    other = tmp_path / "egs" / "librispeech" / "ASR"
    other.mkdir(parents=True)
    (other / "train.py").write_text("")
    done = load(site, tmp_path, "mini", "egs.digits.lact")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr


def test_unknown_experiment_suggests_the_nearest(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "maya.recipes.cli", "plan", "minni")
    assert done.returncode == 1
    assert done.stderr.strip() == "maya plan: there is no experiment 'minni'; did you mean 'mini'?"
    done = run(site, tmp_path, "maya.recipes.cli", "plan", "egs.digits.digit")
    assert done.returncode == 1
    assert "did you mean 'egs.digits.digits'?" in done.stderr and done.stderr.count("\n") == 1


def test_user_experiment_can_import_egs(site: Path, tmp_path: Path) -> None:
    text = "from maya.egs.indic12 import mini\n\n\ndef experiment():\n    return mini.experiment()\n"
    (tmp_path / "mine.py").write_text(text)
    done = load(site, tmp_path, "./mine.py")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_egs_data_programs_run(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "maya.egs.librispeech.data", "--help")
    assert done.returncode == 0 and "manifests" in done.stdout, done.stderr
