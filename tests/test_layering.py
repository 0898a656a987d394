"""Imports go one way: kernels → text → ... → convert → recipes → egs, as CONTRIBUTING.md says."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = (
    *("kernels", "losses", "text", "storage", "audio", "data", "features", "encoders", "heads", "models"),
    "decode",
    *("align", "score", "train", "serve", "convert", "facade", "recipes", "egs"),
)  # facade: maya/__init__.py, which loads models for users
DATA_ORDER = ("corpus", "measure", "table", "report", "prepare", "plan", "loading")  # inside maya/data
FOR_ALL = (
    "errors",
    "config",
    "ranges",
    "files",
    "pages",
)  # files of maya that all layers but the kernels may import
KERNELS_MAY = {"torch", "triton"}
OPTIONAL = (
    *(
        "k2",
        "boto3",
        "botocore",
        "moto",
        "onnx",
        "onnxruntime",
        "espeakng_loader",
        "piper",
        "kokoro",
        "babel",
        "matplotlib",
    ),
    *("transformers", "tokenizers", "huggingface_hub", "peft", "av", "kenlm", "ray", "nemo"),
    *("meeteval", "scipy", "whisper_normalizer", "indic_numtowords", "torchcrepe", "librosa"),
)
ENVIRONMENT = ("os.environ", "os.environb", "os.getenv", "os.putenv")


def source_files(top: Path) -> Iterator[Path]:
    for folder in ("kernels", "maya", "recipes", "egs"):
        yield from sorted((top / folder).rglob("*.py"))


def module_name(path: Path, top: Path) -> str:
    """The dotted name under which a file is imported: kernels/rnnt/__init__.py is maya.kernels.rnnt."""
    parts = list(path.relative_to(top).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[0] in ("maya", "egs") else ["maya", *parts])


def layer(module: str) -> str | None:
    """The layer of a module: a name in ORDER or FOR_ALL; None for other packages."""
    first, _, rest = module.partition(".")
    if first == "egs":
        return "egs"
    if first != "maya":
        return None
    second = rest.split(".")[0]
    return second if second in (*ORDER, *FOR_ALL) else "facade"


def imports(path: Path, top: Path) -> Iterator[tuple[str, int, bool]]:
    """(absolute module name, line, whether it runs when the file is imported) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_name(path, top).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    deferred = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _type_checking(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node not in deferred
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            names = (
                [f"{target}.{a.name}" for a in node.names]
                if target == "maya" or not node.module
                else [target]
            )
            for name in names:
                yield name, node.lineno, node not in deferred


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def violations(top: Path) -> list[str]:
    """One line for each import of a later layer, and each use of something that a layer must not use."""
    problems = []
    for path in source_files(top):
        importer = layer(module_name(path, top))
        assert importer is not None
        for module, line, at_import in imports(path, top):
            if path.name == "bench.py" and layer(module) is None and not at_import:
                continue  # a benchmark may measure itself against other libraries, when it runs
            problem = _wrong_import(importer, module, at_import) or _wrong_in_data(
                module_name(path, top), module
            )
            if problem:
                problems.append(f"{path.relative_to(top)}:{line}: {problem}")
        if path.is_relative_to(top / "maya"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT:
                    problems.append(
                        f"{path.relative_to(top)}:{node.lineno}: maya/ must not read the environment"
                    )
    return problems


def _wrong_import(importer: str, module: str, at_import: bool) -> str | None:
    target, package = layer(module), module.split(".")[0]
    if at_import and package in OPTIONAL:
        return f"{package} is optional: import it inside the function that needs it"
    if importer == "kernels":
        if target is None and package not in (*KERNELS_MAY, *sys.stdlib_module_names):
            return f"kernels import torch and triton only, not {package}"
        if target not in (None, "kernels"):
            return f"kernels import nothing of {module}"
        return None
    if package == "argparse" and importer not in ("recipes", "egs"):
        return "maya/ has no argparse: command lines belong in recipes/, egs/ and tools/"
    if target is None or target in FOR_ALL:
        return None
    if importer in FOR_ALL or ORDER.index(target) > ORDER.index(importer):
        return f"{importer} must not import {target} ({module})"
    return None


def _wrong_in_data(importer: str, module: str) -> str | None:
    """The order inside maya/data; deferred imports count too."""
    inner, target = (
        name.split(".")[2] if name.startswith("maya.data.") else "" for name in (importer, module)
    )
    if inner in DATA_ORDER and target in DATA_ORDER and DATA_ORDER.index(target) > DATA_ORDER.index(inner):
        return f"data.{inner} must not import data.{target} ({module})"
    return None


def import_circles(top: Path) -> list[str]:
    """Modules that import one another, directly or through others, a sorted list of names for each group.

    Imports inside functions and for type checking count as well. A package is imported with its modules, but
    that alone makes no circle: only what a file names counts.
    """
    files = {module_name(path, top): path for path in source_files(top)}
    graph = {
        name: {module for module, _, _ in imports(path, top)} & files.keys() for name, path in files.items()
    }
    for name, path in files.items():  # from package import module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                graph[name] |= {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
        graph[name].discard(name)
    reached: dict[str, set[str]] = {}
    for name in graph:
        todo, seen = list(graph[name]), set()
        while todo:
            if (module := todo.pop()) not in seen:
                seen.add(module)
                todo += graph[module]
        reached[name] = seen
    groups = {
        tuple(sorted(other for other in seen if name in reached[other]))
        for name, seen in reached.items()
        if name in seen
    }
    return sorted(" <-> ".join(group) for group in groups)


def test_no_circle_of_imports(repo: Path) -> None:
    assert import_circles(repo) == []


def test_checker_finds_circles(tmp_path: Path) -> None:
    texts = {
        "maya/text/a.py": "from maya.text import b",
        "maya/text/b.py": "def f():\n    import maya.text.c",
        "maya/text/c.py": "import typing\nif typing.TYPE_CHECKING:\n    from maya.text.a import x",
        "maya/text/d.py": "from maya.text.a import x",
        "recipes/e.py": "from maya.recipes.e2 import x",
        "recipes/e2.py": "from . import e",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert import_circles(tmp_path) == [
        "maya.recipes.e <-> maya.recipes.e2",
        "maya.text.a <-> maya.text.b <-> maya.text.c",
    ]


def test_imports_go_one_way(repo: Path) -> None:
    assert len(list(source_files(repo))) > 30  # the checker looks at something
    assert violations(repo) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("maya/text/a.py", "from maya.train.loop import train", "text must not import train"),
        ("maya/text/a.py", "from ..train import loop", "text must not import train"),
        ("maya/text/a.py", "from maya import train", "text must not import train"),
        ("maya/text/a.py", "import maya", "text must not import facade"),
        ("maya/text/a.py", "def f():\n    import maya.score.wer", "text must not import score"),
        ("maya/train/a.py", "import maya.recipes.experiment", "train must not import recipes"),
        ("recipes/a.py", "import egs.mini.data", "recipes must not import egs"),
        ("maya/convert/__init__.py", "from .. import recipes", "convert must not import recipes"),
        ("kernels/rnnt/a.py", "import numpy", "kernels import torch and triton only"),
        ("kernels/rnnt/bench.py", "import torchaudio", "kernels import torch and triton only"),
        ("kernels/rnnt/a.py", "from maya.errors import MayaError", "kernels import nothing of maya.errors"),
        ("maya/config.py", "from maya.text import tokenizer", "config must not import text"),
        ("maya/score/a.py", "import argparse", "no argparse"),
        ("maya/score/a.py", "import os\nx = os.environ.get('A')", "environment"),
        ("maya/score/a.py", "import os\nx = os.getenv('A')", "environment"),
        (
            "maya/data/table/a.py",
            "from maya.data.loading.batch import Batch",
            "data.table must not import data.l",
        ),
        (
            "maya/data/plan/a.py",
            "def f():\n    import maya.data.loading.loader",
            "data.plan must not import data.l",
        ),
        ("recipes/a.py", "import matplotlib.pyplot as plt", "matplotlib is optional"),
        ("recipes/a.py", "try:\n    import k2\nexcept ImportError:\n    k2 = None", "k2 is optional"),
    ],
)
def test_checker_finds_a_bad_import(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    problems = violations(tmp_path)
    assert len(problems) == 1 and complaint in problems[0] and problems[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("maya/train/a.py", "from maya.models.hybrid import hybrid\nfrom maya.errors import MayaError"),
        ("maya/losses/a.py", "from maya.kernels.rnnt import rnnt_loss\nfrom . import ctc"),
        (
            "kernels/rnnt/__init__.py",
            "import math\nimport torch\nfrom maya.kernels.lattice import f\nfrom .. import x",
        ),
        ("kernels/rnnt/bench.py", "def other():\n    import torchaudio"),
        ("maya/score/a.py", "def plot():\n    import matplotlib"),
        ("egs/a/mini.py", "from egs.a import data\nfrom maya.recipes import presets\nimport argparse"),
        (
            "maya/__init__.py",
            "def load():\n    from maya.train.checkpoints.checkpoint import load_checkpoint",
        ),
    ],
)
def test_checker_allows_a_good_import(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path) == []


def test_torchaudio_is_imported_in_one_place(repo: Path) -> None:
    """It needs one torch version, so only kernels/bench/peers.py and tests/oracles.py import it, guarded."""
    folders = ("kernels", "maya", "recipes", "egs", "tools", "tests")
    texts = {path: path.read_text() for folder in folders for path in (repo / folder).rglob("*.py")}
    written = re.compile(r"^\s*(import|from) torchaudio\b", re.MULTILINE)
    assert [path for path, text in texts.items() if written.search(text)] == []
    by_name = re.compile(r'import_module\(f?"torchaudio')
    importers = {str(path.relative_to(repo)) for path, text in texts.items() if by_name.search(text)}
    assert importers == {"kernels/bench/peers.py", "tests/oracles.py"}


def test_everything_imports_without_the_optional_packages(repo: Path) -> None:
    names = [module_name(p, repo) for p in source_files(repo)]
    code = f"""
import importlib, sys
sys.modules |= dict.fromkeys({OPTIONAL!r})  # None makes an import fail and find_spec say no
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
