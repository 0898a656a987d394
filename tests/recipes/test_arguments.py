"""Errors on the command line: one sentence with the nearest name. Options cannot be abbreviated."""

import ast
import re
from pathlib import Path

import pytest

from maya.recipes.aliases import ALIASES, is_switch, overrides_of
from maya.recipes.cli import main, parser


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trian", "maya: unknown command 'trian'; did you mean 'train'?"),
        ("xyzzy", "maya: unknown command 'xyzzy'; choose one of prepare, validate"),
        ("", "maya: name a command"),
        ("--versoin", "maya: unknown option --versoin; did you mean --version?"),
        ("convert nmeo a b", "maya convert: unknown format 'nmeo'; did you mean 'nemo'?"),
        ("train --exp x", "maya train: unknown option --exp; did you mean --experiment?"),
        ("train --exp=x --data d", "maya train: unknown option --exp; did you mean --experiment?"),
        ("train --experimnt x", "maya train: unknown option --experimnt; did you mean --experiment?"),
        ("train --run-dri r", "maya train: unknown option --run-dri; did you mean --run-dir?"),
        ("train --train.lr 3", "maya train: unknown option --train.lr; write --set train.lr=VALUE"),
        ("train --encoder 1", "maya train: unknown option --encoder; did you mean --encoder-lr?"),
        ("transcribe r a.wav --lang hi", "unknown option --lang; did you mean --language?"),
        ("transcribe r a.wav --format jsn", "--format: unknown format 'jsn'; did you mean 'json'?"),
        ("transcribe r a.wav --channel x", "--channel: expects a number from 1, all or mix, not 'x'"),
        (
            "export onnx a b --chunk 4",
            "unknown option --chunk; did you mean --chunk-frames?",
        ),
        ("export onnx a b --chunk-frames 0", "--chunk-frames: must be 1 or more, not 0"),
        ("score r extra", "maya score: unexpected argument 'extra'"),
        ("score --run-dir r extra", "maya score: argument RUN: not allowed with argument --run-dir"),
        ("score", "maya score: missing RUN"),
        ("validate", "maya validate: missing --corpus or --data"),
        ("score --run-dir r --num-samples -1", "--num-samples: must be 0 or more, not -1"),
        ("score --run-dir r --num-samples 1.5", "--num-samples: expects a whole number, not '1.5'"),
        ("validate --corpus c --sample=-3", "--sample: must be 0 or more, not -3"),
        ("average --experiment e --data d --run-dir r --avg 0", "--avg: must be 1 or more, not 0"),
        ("transcribe r a.wav --context -2 1", "--context: must be 0 or more or -1, not -2"),
    ],
)
def test_mistyped_arguments_give_one_sentence(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert sentence in error and error.count("\n") == 1 and "--help`" in error


@pytest.mark.parametrize(
    "command", ["train", "prepare", "tokenizer", "average", "decode", "plan", "validate"]
)
@pytest.mark.parametrize("alias", list(ALIASES))
def test_earlier_option_names_belong_to_train(
    command: str, alias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    required = {
        "prepare": ["--corpus", "c", "--out", "o"], "validate": ["--corpus", "c"], "plan": [],
    }.get(command, ["--data", "d", "--run-dir", "r"])  # fmt: skip
    arguments = [command, "--experiment", "x", *required, alias, *([] if is_switch(alias) else ["0.5"])]
    if command == "train":
        assert parser().parse_args(arguments).overrides == overrides_of(alias, "0.5")
        return
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    written = " ".join(f"--set {override}" for override in overrides_of(alias, "VALUE"))
    assert f"{alias} is an option of `maya train`; here write {written}" in error


def test_parsers_do_not_accept_abbreviations(repo: Path) -> None:
    for folder in ("recipes", "tools", "egs", "kernels"):
        for path in (repo / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "argparse.ArgumentParser":
                    words = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert words.get("allow_abbrev") == "False", f"{path}:{node.lineno}"


def test_values_that_look_like_options() -> None:
    """Negative numbers, "-" and arguments after "--" are not options."""
    line = ["transcribe", "run", "--context", "-1", "8", "--", "--odd name.wav"]
    args = parser().parse_args(line)
    assert args.context == [-1, 8] and [str(p) for p in args.audio] == ["--odd name.wav"]
    args = parser().parse_args(["decode", "--experiment", "x", "--data", "-", "--run-dir", "r"])
    assert str(args.data) == "-"
    args = parser().parse_args(["plan", "mini", "--set", "train.lr=-1"])
    assert args.overrides == ["train.lr=-1"]


def test_help_is_plain_english() -> None:
    """Each option of each command has a help text without unclear phrases."""
    bad = re.compile(r"\b(in place of|is told|none is told|that stands for|what was found)\b|^of |^what ")

    def visit(p, name: str) -> None:  # noqa: ANN001
        assert "%%" not in p.format_help(), name
        for action in p._actions:
            if hasattr(action, "choices") and isinstance(action.choices, dict):
                for command, inner in action.choices.items():
                    visit(inner, f"{name} {command}")
            else:
                assert action.help, f"{name} {action.dest} has no help"
                assert not bad.search(action.help), f"{name} {action.dest}: {action.help}"

    visit(parser(complete=True), "maya")
