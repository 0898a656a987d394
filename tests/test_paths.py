"""Files, modules, commands and make targets that the documentation names exist."""

import argparse
import ast
import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from maya.config import to_dict
from maya.recipes.aliases import ALIASES
from maya.recipes.cli import parser
from maya.recipes.experiment import load_experiment
from maya.train.checkpoints.state import flat

FOLDERS = "maya|kernels|recipes|egs|tools|tests|docs"
PATH = re.compile(rf"(?<![\w/.<{{$*-])(?:\./)?((?:{FOLDERS})/[\w./*-]+)")
MODULE = re.compile(rf"python -m ((?:{FOLDERS})(?:\.\w+)+)")
TARGET = re.compile(r"`make ([a-z][a-z0-9-]*)")
# Paths of other projects, with the file that mentions them.
FOREIGN = ("egs/librispeech/ASR",)


def tracked(repo: Path) -> list[str]:
    """Files that git tracks or would track, as in a clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this tree is no git checkout")
    return [name for name in done.stdout.splitlines() if (repo / name).is_file()]


def documentation(repo: Path) -> Iterator[tuple[str, str]]:
    """(file, text) of each page, and of each docstring and comment outside the tests."""
    for name in tracked(repo):
        if name == "CHANGELOG.md":  # it names removed files
            continue
        if name.endswith(".md") or (name.endswith(".sh") and not name.startswith("tests/")):
            yield name, (repo / name).read_text(encoding="utf-8")
        elif name.endswith(".py") and not name.startswith("tests/"):
            source = (repo / name).read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    yield name, ast.get_docstring(node) or ""
            yield name, "\n".join(re.findall(r"(?m)#.*$", source))


def test_paths_exist(repo: Path) -> None:
    names = {name for file in tracked(repo) for name in (file, *map(str, Path(file).parents))}
    missing = []
    for file, text in documentation(repo):
        for match in PATH.finditer(text):
            path = match[1].rstrip("/.-")
            if text[match.end() : match.end() + 1] in ("<", "{", "$"):  # continues with a placeholder
                path = str(Path(path).parent)
            if path.startswith(FOREIGN) or path in names or any(word.isupper() for word in path.split("/")):
                continue
            if not list(
                repo.glob(path if "*" in path else f"{path}.*")
            ):  # a pattern, or --out without suffix
                missing.append(f"{file}: {path}")
    assert missing == []


def test_modules_exist(repo: Path) -> None:
    for file, text in documentation(repo):
        for match in MODULE.finditer(text):
            parts = match[1].split(".")
            parts = parts[1:] if parts[0] == "maya" and parts[1] in ("kernels", "recipes") else parts
            path = repo.joinpath(*parts)
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), (
                f"{file}: {match[1]}"
            )


def test_make_targets_exist(repo: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z][a-z0-9-]*):", (repo / "Makefile").read_text()))
    for file, text in documentation(repo):
        for target in TARGET.findall(text):
            assert target in targets, f"{file}: make {target}"


def test_documented_commands_parse(repo: Path) -> None:
    """The options and values of every line of a code block that begins with `maya` are valid."""
    count = 0
    for file, text in documentation(repo):
        if not file.endswith(".md"):
            continue
        for block in re.findall(r"(?s)```(?:\w*)\n(.*?)```", text):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("#")[0].replace("exp/...", "exp")
                if command.startswith("maya ") and "..." not in command and "$" not in command:
                    count += 1
                    words = shlex.split(line, comments=True)[1:]
                    words = words[: words.index("|")] if "|" in words else words
                    error = io.StringIO()
                    try:
                        with contextlib.redirect_stderr(error):
                            parser().parse_args(words)
                    except (SystemExit, argparse.ArgumentError):
                        pytest.fail(f"{file}: {line}: {error.getvalue()}")
    assert count > 10


def options_that_exist(repo: Path) -> set[str]:
    """Options of the `maya` command, of every run.sh and of the programs under egs/, tools/ and kernels/."""
    options = set(ALIASES)
    parsers: list[argparse.ArgumentParser] = [parser(complete=True)]
    while parsers:
        for action in parsers.pop()._actions:
            options.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    for name in tracked(repo):
        text = (repo / name).read_text(encoding="utf-8") if name.endswith((".py", ".sh")) else ""
        if name.endswith(("run.sh", "stages.sh")):
            options.update(f"--{word.replace('_', '-')}" for word in re.findall(r"(?m)^([a-z_]+)=", text))
        elif not name.startswith("tests/"):
            options.update(re.findall(r"(?:add|add_argument)\(\s*\"(--[a-z-]+)", text))
            options.update(re.findall(r"(?m)^ *(--[a-z-]+) ?[|)]", text))  # of a shell's case
    return options


def test_documented_options_exist(repo: Path) -> None:
    """Checks `--option` and `--group.field` in the pages. `foreign` lists options of other programs."""
    foreign = {"--use-averaged-model", "--torch-threads", "--shift-output", "--index-url", "--cov"}
    foreign.add("--max-restarts")  # torchrun's, which maya.recipes.launch takes
    options = options_that_exist(repo) | foreign
    names = ["egs.indic12.mini", "egs.digits.lact", "egs.librispeech.zipformer:tiny"]
    names.append("egs.phonemes.phonemes:whisper")
    fields = {field for name in names for field in flat(to_dict(load_experiment(name, [])))}
    unknown = []
    for file, text in documentation(repo):
        for option in re.findall(r"`(--[a-z][\w.-]*)[^`]*`", text) if file.endswith(".md") else ():
            name = option.removeprefix("--")
            inside = any(field == name or field.startswith(f"{name}.") for field in fields)
            if not (inside if "." in name else option in options):
                unknown.append(f"{file}: {option}")
    assert unknown == []


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("see `maya/train/loop.py`, or tools/env.sh.", ["maya/train/loop.py", "tools/env.sh"]),
        ("./egs/indic12/run.sh --stage 3", ["egs/indic12/run.sh"]),
        ("exp/maya/x and /home/tools/y", []),
        ("egs/a/*.py and egs/<corpus>/data.py", ["egs/a/*.py"]),
    ],
)
def test_pattern_matches_paths(text: str, paths: list[str]) -> None:
    assert [match[1].rstrip(".") for match in PATH.finditer(text)] == paths
