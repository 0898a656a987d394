"""constraints.txt pins all requirements of setup.py, and an installation keeps an existing torch."""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import maya
from tools import requirements

SETUP = requirements.setup_arguments()
CUDA = re.compile(r"(nvidia|cuda)-")  # a CUDA build of torch pins these itself


def test_published_metadata() -> None:
    assert (SETUP["name"], SETUP["version"]) == ("maya-asr", maya.__version__)
    torch = next(Requirement(line) for line in SETUP["install_requires"] if line.startswith("torch"))
    assert "2.11.0" in torch.specifier and "2.10.0" not in torch.specifier
    assert "2.99" in torch.specifier and "3.0" in torch.specifier  # no upper bound


def test_constraints_are_exact_versions(repo: Path) -> None:
    lines = [x for x in (repo / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)  # +cpu is no version
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names)) and len(lines) == len(requirements.pins()) > 50


@pytest.mark.parametrize("extra", ["", "mini", "dev"])
def test_each_requirement_is_pinned_in_its_range(extra: str) -> None:
    pins = requirements.pins()
    for requirement in requirements.requirements(extra):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"constraints.txt has {requirement.name} {version}"


def _needed(names: list[Requirement]) -> Iterator[Requirement]:
    """The requirements, and the requirements of their installed distributions."""
    todo, seen = list(names), set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        yield requirement
        if requirements.installed(requirement.name) is None:
            continue
        extras = [*requirement.extras, ""]
        for line in importlib.metadata.requires(requirement.name) or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(inner)


def test_transitive_requirements_are_pinned() -> None:
    pins = requirements.pins()
    needed = {canonicalize_name(r.name) for r in _needed(requirements.requirements("dev"))}
    assert {"sympy", "filelock", "lhotse"} <= needed
    lacking = {name for name in needed if not CUDA.match(name)} - pins.keys()
    assert lacking == set()
    torch = requirements.installed("torch")
    if torch and torch.partition("+")[0] == pins["torch"]:  # not with the oldest or the newest
        assert pins.keys() - needed == {"setuptools"} - needed  # and nothing else is


def test_imports_are_declared_as_requirements(repo: Path) -> None:
    of = importlib.metadata.packages_distributions()
    every = {canonicalize_name(r.name) for r in requirements.requirements()}
    optional = {
        canonicalize_name(Requirement(line).name) for x in SETUP["extras_require"].values() for line in x
    }
    # What only a server imports may need the extra `serve`; without it `maya serve` says so.
    server = {canonicalize_name(Requirement(line).name) for line in SETUP["extras_require"]["serve"]}
    lacking = []
    for path in (p for folder in ("maya", "recipes", "egs") for p in (repo / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        first = {n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, "level", 0):
                continue
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            for package in {name.partition(".")[0] for name in names}:
                if package in sys.stdlib_module_names or package in ("maya", "egs", "tests", "tools"):
                    continue
                owners = {canonicalize_name(name) for name in of.get(package, [package])}
                at_import = every | server if path.is_relative_to(repo / "maya" / "serve") else every
                if not owners & (at_import if node in first else every | optional):
                    lacking.append(f"{path.relative_to(repo)}:{node.lineno}: {package}")
    brought = ("botocore", "tokenizers")  # by boto3 and transformers
    assert [line for line in lacking if not line.endswith(brought)] == []


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that appear to be installed in this Python."""
    table: dict[str, str] = {}
    monkeypatch.setattr(requirements, "installed", table.get)
    return table


def test_installed_torch_is_kept(versions: dict[str, str]) -> None:
    pins = [f"{name}=={version}" for name, version in sorted(requirements.pins().items())]
    assert requirements.constraints("tested") == pins
    versions["torch"] = "2.12.1+cu130"
    versions["numpy"] = "1.0"
    kept = [line if not line.startswith("torch==") else "torch==2.12.1+cu130" for line in pins]
    assert requirements.constraints("tested") == kept
    versions["triton"] = "3.6.9"  # torch requires it
    assert "triton==3.6.9" in requirements.constraints("tested")
    versions["setuptools"] = "65.5.0"  # cannot build this package
    assert f"setuptools=={requirements.pins()['setuptools']}" in requirements.constraints("tested")
    versions["setuptools"] = "80.9.0"
    assert "setuptools==80.9.0" in requirements.constraints("tested")
    versions["torch"] = "2.9.0"  # too old for us
    assert requirements.constraints("tested") == pins


def test_oldest_and_newest_versions() -> None:
    oldest = requirements.constraints("oldest")
    assert {"torch==2.11.0", "torchaudio==2.11.0", "triton==3.6.0"} <= set(oldest)
    assert f"numpy=={requirements.pins()['numpy']}" in oldest
    assert requirements.constraints("newest") == []
    lowest = next(r for r in requirements.requirements() if r.name == "torch").specifier
    assert lowest == requirements.KEPT["torch"]


def test_missing_requirements_are_listed(
    versions: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    versions |= requirements.pins()
    assert requirements.missing("dev") == [] and requirements.main(["missing", "dev"]) == 0
    versions |= {"torch": "2.10.0", "pytest": "", "babel": ""}
    del versions["pytest"], versions["babel"]
    assert requirements.missing("mini") == ["torch>=2.11", "babel"]
    assert requirements.main(["missing", "dev"]) == 1
    assert capsys.readouterr().out == "\ntorch>=2.11, babel, pytest\n"
    versions["torch"] = "2.13.0a0+git"  # a build of one's own
    assert "torch>=2.11" not in requirements.missing("dev")
    assert requirements.main(["whatever"]) == 2
