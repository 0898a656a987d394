"""The parser of the `maya` command, and the options that several commands share.

Options cannot be abbreviated. A wrong name is answered with the nearest right one.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from maya.config import nearest
from maya.ranges import Range
from maya.recipes.aliases import ALIASES, overrides_of

_OPTION_OF_RUN_SH = re.compile(r"--[a-z_0-9]+(\.[a-z_0-9]+)+")  # --train.lr
_NUMBER = re.compile(r"-\d|-\.\d")


def number(kind: type[int] | type[float], allowed: Range) -> Callable[[str], float]:
    """The `type` of an option that takes a number of this range."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expects {words}, not {text!r}") from None
        if not allowed.allows(value):
            raise argparse.ArgumentTypeError(f"must be {allowed}, not {text}")
        return value

    return parse


COUNT, POSITIVE = number(int, Range(min=0)), number(int, Range(min=1))
CORPUS = (
    "a folder (manifest.jsonl, metadata.csv, Kaldi, lhotse, NeMo, Hugging Face, or wav + txt), "
    "lhotse:NAME:DIR, nemo:MANIFESTS:TARS or s3://bucket/folder"
)


class Parser(argparse.ArgumentParser):
    """argparse's parser with `allow_abbrev=False`; its subparsers are of this class, too.

    add_options: adds the options just before the first parsing, so that help on all commands is fast.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.add_options: Callable[[Parser], None] | None = None
        self._given: list[str] = []

    def complete(self) -> None:
        """Add the options that `add_options` has not added yet."""
        add, self.add_options = self.add_options, None
        if add is not None:
            add(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but an unknown argument is an error of the command that it was given to."""
        self.complete()
        self._given = list(sys.argv[1:] if args is None else args)
        parsed, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unexpected argument {extra[0]!r}")
        return parsed, extra

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one sentence. An unknown option comes first: it may explain the rest."""
        unknown = [option for option in self._given_options() if option not in self._option_string_actions]
        if unknown:
            message = self._unknown(unknown[0])
        message = message.replace("the following arguments are required: ", "missing ").replace(
            "missing COMMAND", "name a command"
        )
        message = re.sub(r"^one of the arguments (.+) is required$", _missing, message)
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def _given_options(self) -> Iterable[str]:
        """The options on the command line of this parser, up to a subcommand or "--"."""
        commands = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        for text in self._given:
            if text == "--" or (commands and not text.startswith("-")):
                return
            if text.startswith("-") and text != "-" and not _NUMBER.match(text):
                yield text.partition("=")[0]

    def _unknown(self, option: str) -> str:
        options = list(self._option_string_actions)
        if option in ALIASES and "--set" in options:
            written = " ".join(f"--set {override}" for override in overrides_of(option, "VALUE"))
            return f"{option} is an option of `maya train`; here write {written}"
        if _OPTION_OF_RUN_SH.fullmatch(option) and "--set" in options:
            hint = f"; write --set {option.removeprefix('--')}=VALUE"
        else:
            longer = [name for name in options if len(option) > 2 and name.startswith(option)]
            hint = f"; did you mean {longer[0]}?" if longer else nearest(option, options).replace("'", "")
        return f"unknown option {option}{hint}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's check of choices, with the nearest one."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        hint = nearest(str(value), choices) or f"; choose one of {', '.join(choices)}"
        if isinstance(action, argparse._SubParsersAction):
            kind = (action.metavar or "command") if isinstance(action.metavar, str) else "command"
            self.error(f"unknown {kind.lower()} {value!r}{hint}")
        raise argparse.ArgumentError(action, f"unknown value {value!r}{hint}")


def _missing(match: re.Match[str]) -> str:
    """The sentence for a missing argument of a group: the positional one, or all options."""
    names = match[1].split()
    return "missing " + (names[0] if names[0].isupper() else " or ".join(names))


def add_parser(commands: argparse._SubParsersAction, name: str, text: str) -> Parser:
    """A subcommand without options."""
    # argparse formats help with %, and a description as it is.
    return commands.add_parser(
        name, help=text.replace("%", "%%"), description=text[0].upper() + text[1:] + "."
    )


def add_force(p: argparse.ArgumentParser) -> None:
    """The option --force."""
    p.add_argument("--force", action="store_true", help="run again, even if the inputs have not changed")


def add_set(p: argparse.ArgumentParser, text: str = "") -> None:
    """The option --set; overrides of the experiment unless `text` says of what."""
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help=text or "change an option of the experiment, such as train.lr=3e-4; repeatable",
    )  # fmt: skip


def add_experiment(p: argparse.ArgumentParser, *, required: bool = True, default: str = "") -> None:
    """The options --experiment and --set. default: what is used without --experiment, for the help."""
    text = "a Python file (./mine.py) or a module (egs.indic12.mini) with a function experiment(); another "
    text += "function: FILE:FUNCTION" + (default and f"; default: {default}")
    p.add_argument("--experiment", required=required, metavar="FILE", help=text)
    add_set(p)


def add_data_and_run(p: argparse.ArgumentParser) -> None:
    """The options --data, which data.source=lhotse does not need, and --run-dir."""
    text = "the folder that `maya prepare` wrote; not needed with data.source=lhotse"
    p.add_argument("--data", type=Path, help=text)
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder; it is made if missing")


class _Folder(argparse.Action):
    """Stores a positional argument that may be missing: without it, the option's value stays."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values is not None:
            namespace.run_dir = values


def add_run(p: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """The run folder, as an argument or as --run-dir. Returns their group, for what may replace it."""
    group = p.add_mutually_exclusive_group(required=True)
    group.add_argument("run_dir", type=Path, nargs="?", action=_Folder, metavar="RUN", help="the run folder")
    group.add_argument("--run-dir", type=Path, metavar="RUN", help="the same, as an option")
    return group


def add_finished_run(p: argparse.ArgumentParser) -> None:
    """A run folder, with options to replace what training recorded in it."""
    add_run(p)
    p.add_argument(
        "--data", type=Path, help="the folder that `maya prepare` wrote; default: that of training"
    )
    add_experiment(p, required=False, default="that of training")


def add_checkpoint(p: argparse.ArgumentParser) -> None:
    """A checkpoint as an argument, and --experiment for a model with code of the user's own."""
    p.add_argument("checkpoint", type=Path, help="a .pt file, a run folder or a .nemo archive")
    add_code(p)


def add_code(p: argparse.ArgumentParser) -> None:
    """The option --experiment of commands that only need the classes that its file registers."""
    p.add_argument(
        "--experiment", metavar="FILE",
        help="import this file first, for a model with classes of your own; default: the file of training",
    )  # fmt: skip


def add_list(p: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Positional arguments, any number of them, also after options: with nargs="*" argparse would take none
    as soon as an option follows the argument before them."""
    action = p.add_argument(name, nargs="+", default=[], **options)
    action.required = False


def add_device(p: argparse.ArgumentParser) -> None:
    """The option --device."""
    text = "auto (the default: the first GPU, else the CPU), cpu, cuda, cuda:1 ..."
    p.add_argument("--device", default="auto", help=text)


def add_json(p: argparse.ArgumentParser, text: str) -> None:
    """The option --json."""
    p.add_argument("--json", type=Path, metavar="FILE", help=text)


def add_num_samples(p: argparse.ArgumentParser) -> None:
    """The option --num-samples."""
    text = "show N utterances, reference beside hypothesis, from the worst to the best"
    p.add_argument("--num-samples", type=COUNT, default=0, metavar="N", help=text)
