"""Rules of the code base that a program can check; CONTRIBUTING.md gives the reasons."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_KERNEL = 500, 60, 150
# "path" or "path::function" -> the reason for more lines.
LONGER: dict[str, str] = {}
# Modules that no test mentions -> the reason.
UNTESTED: dict[str, str] = {}
# In pieces, so that this file does not break its own rule.
MACHINE_PATHS = re.compile(
    "|".join((r"(?<![\w.])/wo" + "rk/", r"(?<![\w.])/fa" + "rm/", "/tmp/bash" + "_jobs", "/ro" + "ot/"))
)
CODE = ("maya", "kernels", "recipes", "egs", "tools", "tests")


def project_files(repo: Path) -> list[Path]:
    """Files that git tracks or would track. Without git, all files of the code folders."""
    command = ["git", "-C", str(repo), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        names = [n for n in done.stdout.split("\0") if n]
        return sorted(p for p in (repo / n for n in names) if p.is_symlink() or p.is_file())
    paths = (p for folder in CODE for p in (repo / folder).rglob("*") if "__pycache__" not in p.parts)
    return sorted(p for p in paths if p.is_symlink() or p.is_file())


def python_files(repo: Path) -> Iterator[tuple[str, str]]:
    """(path relative to the checkout, text) of the project's Python files."""
    for path in project_files(repo):
        name = str(path.relative_to(repo))
        if path.suffix == ".py" and name.split("/")[0] in CODE:
            yield name, path.read_text(encoding="utf-8")


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def too_long(name: str, text: str) -> list[str]:
    """The file and those of its functions that are too long."""
    lines = text.count("\n")
    errors = [f"{name} has {lines} lines"] if lines > LONGEST_FILE and name not in LONGER else []
    limit = LONGEST_KERNEL if name.startswith("kernels/") else LONGEST_FUNCTION
    for node in functions(text):
        if length(node) > limit and f"{name}::{node.name}" not in LONGER:
            errors.append(f"{name}:{node.lineno} {node.name} has {length(node)} lines")
    return errors


def repeated(files: dict[str, str]) -> list[str]:
    """Functions of more than eight lines with the same body as another one."""
    seen: dict[str, str] = {}
    errors = []
    for name, text in files.items():
        for node in functions(text):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if not body or (body[-1].end_lineno or 0) - body[0].lineno + 1 <= 8:
                continue
            here, content = f"{name}:{node.lineno} {node.name}", "\n".join(ast.dump(b) for b in body)
            if content in seen:
                errors.append(f"{here} repeats {seen[content]}")
            seen.setdefault(content, here)
    return errors


def test_files_and_functions_are_short(repo: Path) -> None:
    assert [line for name, text in python_files(repo) for line in too_long(name, text)] == []


def test_exceptions_are_still_needed(repo: Path) -> None:
    files = dict(python_files(repo))
    for key in LONGER:
        name, _, function = key.partition("::")
        assert name in files, f"{key} no longer exists: remove it from the list"
        if function:
            lengths = [length(n) for n in functions(files[name]) if n.name == function]
            limit = LONGEST_KERNEL if name.startswith("kernels/") else LONGEST_FUNCTION
            assert max(lengths, default=0) > limit, f"{key} is short now: remove it from the list"
        else:
            assert files[name].count("\n") > LONGEST_FILE, f"{key} is short now: remove it from the list"


def test_no_duplicate_blocks(repo: Path) -> None:
    assert repeated({n: t for n, t in python_files(repo) if not n.startswith("tests/")}) == []


def test_no_machine_paths_or_links(repo: Path) -> None:
    errors = []
    for path in project_files(repo):
        name = path.relative_to(repo)
        if path.is_symlink():
            errors.append(f"{name} is a link")
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        errors += [f"{name}: {m.group()}" for m in MACHINE_PATHS.finditer(text)]
    assert errors == []


def test_tests_mirror_the_tree(repo: Path) -> None:
    packages = {p.name for p in (repo / "maya").iterdir() if (p / "__init__.py").is_file()}
    allowed = packages | {"kernels", "recipes", "egs", "tools", "golden", "interop"}
    folders = [p for p in (repo / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"]
    for folder in folders:
        assert folder.name in allowed, f"tests/{folder.name} mirrors nothing"
        if folder.name != "golden":
            assert (folder / "__init__.py").is_file(), f"tests/{folder.name} needs an __init__.py"
    with_code = {
        r for r in packages if any(p.name != "__init__.py" for p in (repo / "maya" / r).glob("*.py"))
    }
    assert with_code <= {p.name for p in folders if any(p.glob("test_*.py"))}, "a package has no tests"


def unmentioned(files: dict[str, str]) -> list[str]:
    """Library modules that no test mentions, neither by name nor by a function or class."""
    words = {w for name, text in files.items() if name.startswith("tests/") for w in re.findall(r"\w+", text)}
    modules = []
    for name, text in files.items():
        if not name.startswith(("maya/", "recipes/")) or name.endswith("__init__.py"):
            continue
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        public = {n.name for n in ast.parse(text).body if isinstance(n, kinds) and not n.name.startswith("_")}
        if not words & (public | {Path(name).stem}):
            modules.append(name)
    return modules


def test_every_module_is_mentioned_in_a_test(repo: Path) -> None:
    """Finds modules that were added without a test. It is no measure of quality."""
    assert [name for name in unmentioned(dict(python_files(repo))) if name not in UNTESTED] == []


@pytest.mark.parametrize("prefix", ["/wo" + "rk/main", "see /wo" + "rk/x", "/tmp/bash" + "_jobs.0/1"])
def test_checker_finds_a_machine_path(prefix: str) -> None:
    assert MACHINE_PATHS.search(prefix)


def test_checker_allows_relative_paths() -> None:
    assert not MACHINE_PATHS.search("exp/work/mini and ./work/x and the /workshop")


def test_checkers_find_long_code_and_duplicates() -> None:
    body = "\n".join(f"    x{i} = {i}" for i in range(70))
    assert too_long("maya/a.py", f"def f():\n{body}\n") == ["maya/a.py:1 f has 71 lines"]
    assert too_long("kernels/a.py", f"def f():\n{body}\n") == []
    assert too_long("maya/a.py", "x = 1\n" * 501) == ["maya/a.py has 501 lines"]
    twice = {"a.py": f"def f():\n    'One.'\n{body}\n", "b.py": f"def g(z):\n{body}\n"}
    assert repeated(twice) == ["b.py:1 g repeats a.py:1 f"]
    assert repeated({"a.py": "def f():\n    return 1\n", "b.py": "def f():\n    return 1\n"}) == []


def test_checker_finds_an_untested_module() -> None:
    files = {
        "maya/text/a.py": "def forgotten(): ...",
        "maya/text/b.py": "class Known: ...",
        "tests/t.py": "Known()",
    }
    assert unmentioned(files) == ["maya/text/a.py"]


def test_no_text_file_is_divided_by_splitlines(repo: Path) -> None:
    """str.splitlines ends a line at U+2028, U+0085 and others too, which a transcript may hold."""
    divided = [
        f"{name}:{node.lineno}"
        for name, text in python_files(repo)
        if name.startswith(("maya/", "recipes/", "egs/"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "splitlines" and "read_text" in ast.unparse(node)
    ]
    assert divided == []
