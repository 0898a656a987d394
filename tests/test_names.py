"""Rules about names and interfaces; CONTRIBUTING.md gives the reasons."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_house import functions, python_files

BANNED = frozenset(
    {"found", "mine", "told", "heard", "known", "one", "left", "there", "how", "more", "theirs"}
)
MOST_PARAMETERS = 8
# "path::function" -> the reason for more parameters.
_LOSS = "a public loss: its arguments are those of the operator"
MORE_PARAMETERS: dict[str, str] = {
    "kernels/pruned_rnnt/__init__.py::simple_rnnt_loss": _LOSS,
    "kernels/pruned_rnnt/__init__.py::pruned_rnnt_loss": _LOSS,
    "kernels/pruned_rnnt/fused.py::fused_pruned_rnnt_loss": _LOSS,
    "kernels/rnnt/fused.py::fused_rnnt_loss": _LOSS,
    "kernels/tdt/__init__.py::tdt_loss": _LOSS,
    "kernels/tdt/fused.py::fused_tdt_loss": _LOSS,
    "kernels/lact/__init__.py::lact": "a public operator: inputs, weights and how they are updated",
    "maya/data/loading/loader.py::__init__": "options by keyword, as torch's DataLoader",
    "maya/train/optimizers/scaled_adam.py::__init__": "hyper-parameters by keyword, as torch's optimizers",
    "recipes/presets.py::fastconformer_tdt_ctc": "the sizes of a model by keyword",
}
# "path" -> the reason for asking for a kind there.
KINDS_ELSEWHERE = {"tools/bench/transcribe.py": "NeMo's and transformers' models differ by decoder"}
# Classes of heads and encoders: only their own folders, converters and tests may check for them.
PLUGGED = frozenset(
    {
        *("FastConformer", "Zipformer", "LaCT", "FastConformerConfig", "ZipformerConfig", "LaCTConfig"),
        *("CTCHead", "TransducerHead", "AttentionDecoder", "Classifier", "LanguageModel"),
        *("CTCConfig", "TransducerConfig", "AttentionDecoderConfig", "ClassifyConfig", "LanguageConfig"),
        "LanguageModelConfig",
    }
)
HEAD_KINDS = frozenset({"transducer", "ctc", "attention", "language_model", "tdt", "rnnt", "pruned"})


def banned_names(text: str) -> Iterator[tuple[int, str]]:
    """(line, name) of each variable, argument or attribute that has a banned name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in BANNED:
            yield node.lineno, node.id
        elif isinstance(node, ast.arg) and node.arg in BANNED:
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in BANNED:
            yield node.lineno, node.attr


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The number of parameters without self or cls."""
    arguments = [*node.args.posonlyargs, *node.args.args]
    is_method = bool(arguments) and arguments[0].arg in ("self", "cls")
    return len(arguments) + len(node.args.kwonlyargs) - is_method


def launched_by_others(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a signature is set by Triton or by autograd: a kernel, or the forward of a Function."""
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    is_function = bool(node.args.args) and node.args.args[0].arg == "ctx"
    return "jit" in decorators or is_function


def kind_checks(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of each isinstance on a head or encoder class, and of each comparison with a head kind."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and len(node.args) == 2:
            if {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & PLUGGED:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                words = [side] if isinstance(side, ast.Constant) else getattr(side, "elts", [])
                if any(isinstance(w, ast.Constant) and w.value in HEAD_KINDS for w in words):
                    yield node.lineno, ast.unparse(node)
                    break


def test_banned_names_are_absent(repo: Path) -> None:
    uses = [f"{f}:{line} {name}" for f, text in python_files(repo) for line, name in banned_names(text)]
    assert uses == []


def test_no_two_classes_share_a_name(repo: Path) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, text in python_files(repo):
        if not name.startswith("tests/"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_functions_have_few_parameters(repo: Path) -> None:
    long = {
        f"{name}::{node.name}"
        for name, text in python_files(repo)
        if not name.startswith("tests/")
        for node in functions(text)
        if parameters(node) > MOST_PARAMETERS and not launched_by_others(node)
    }
    assert sorted(long - set(MORE_PARAMETERS)) == []
    assert sorted(set(MORE_PARAMETERS) - long) == [], "these have few parameters now: remove them here"
    assert len(MORE_PARAMETERS) <= 15


def test_kinds_are_compared_only_in_their_folders(repo: Path) -> None:
    """Heads and encoders are used through their protocols everywhere else."""
    home = ("maya/encoders/", "maya/heads/", "maya/convert/", "tests/")
    checks = [
        f"{name}:{line} {code}"
        for name, text in python_files(repo)
        if not name.startswith(home) and name not in KINDS_ELSEWHERE
        for line, code in kind_checks(text)
    ]
    assert checks == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("found = 1", 1),
        ("def f(told): pass", 1),
        ("self.heard = 2", 1),
        ("rows = found", 0),
        ("[x for one in y]", 1),
    ],
)
def test_checker_finds_banned_names(text: str, count: int) -> None:
    assert len(list(banned_names(text))) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("isinstance(x, (A, LaCT))", 1),
        ("isinstance(x, A)", 0),
        ("kind == 'transducer'", 1),
        ("name in ('ctc', 'b')", 1),
        ("name == 'other'", 0),
    ],
)
def test_checker_finds_kind_checks(text: str, count: int) -> None:
    assert len(list(kind_checks(text))) == count
