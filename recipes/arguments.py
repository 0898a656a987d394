"""The parser of the `maya` command: options do not abbreviate, a slip is answered with the nearest name."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from maya.config import nearest
from maya.ranges import Range
from maya.recipes.aliases import ALIASES

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


class Parser(argparse.ArgumentParser):
    """argparse's parser with `allow_abbrev=False`; its subparsers are of this class, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is unknown is an error of the command that it was given to."""
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
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def _given_options(self) -> Iterable[str]:
        """Whatever looks like an option on the command line of this parser, up to a subcommand or "--"."""
        commands = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        for text in self._given:
            if text == "--" or (commands and not text.startswith("-")):
                return
            if text.startswith("-") and text != "-" and not _NUMBER.match(text):
                yield text.partition("=")[0]

    def _unknown(self, option: str) -> str:
        options = list(self._option_string_actions)
        if option in ALIASES and "--set" in options:
            field, _, value = ALIASES[option].partition("=")
            return f"{option} is an option of `maya train`; here write --set {field}={value or 'VALUE'}"
        if _OPTION_OF_RUN_SH.fullmatch(option) and "--set" in options:
            hint = f"; write --set {option.removeprefix('--')}=VALUE"
        else:
            longer = [known for known in options if len(option) > 2 and known.startswith(option)]
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


def add_command(
    commands: argparse._SubParsersAction, name: str, text: str, force: bool = True
) -> argparse.ArgumentParser:
    """A subcommand, with --force unless it has nothing to skip."""
    p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if force:
        p.add_argument("--force", action="store_true", help="run again, even if the inputs have not changed")
    return p


def add_experiment(p: argparse.ArgumentParser, required: bool = True) -> None:
    """The options --experiment and --set."""
    text = "a Python file with a function experiment() (./mine.py), or a module (egs.indic12.mini)"
    p.add_argument("--experiment", required=required, metavar="FILE", help=text)
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="change an option of the experiment, such as train.lr=3e-4; repeatable",
    )  # fmt: skip


def add_data_and_run(p: argparse.ArgumentParser, *, cuts: bool = False) -> None:
    """The options --data and --run-dir. cuts: --data may be missing, where data.source=lhotse names cuts."""
    text = "the folder that `maya prepare` wrote" + ("; not needed with data.source=lhotse" if cuts else "")
    p.add_argument("--data", type=Path, required=not cuts, help=text)
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder; it is made if missing")


def add_num_samples(p: argparse.ArgumentParser) -> None:
    """The option --num-samples."""
    text = "show N utterances, reference beside hypothesis, from the worst to the best"
    p.add_argument("--num-samples", type=number(int, Range(min=0)), default=0, metavar="N", help=text)


def add_convert_icefall(kinds: argparse._SubParsersAction) -> None:
    """The command `maya convert icefall`."""
    p = add_command(
        kinds, "icefall", "a checkpoint of icefall's Zipformer (epoch-N.pt, pretrained.pt ...)", force=False
    )
    p.add_argument("source", type=Path, help="the .pt file")
    p.add_argument("out", type=Path, help="folder for the checkpoint; use it like a run folder")
    pieces = p.add_mutually_exclusive_group(required=True)
    pieces.add_argument("--bpe-model", type=Path, metavar="FILE", help="the bpe.model it was trained with")
    pieces.add_argument("--tokens", type=Path, metavar="FILE", help="tokens.txt; enough to transcribe")
    p.add_argument(
        "--avg-with", type=Path, metavar="FIRST",
        help="average the weights from an earlier epoch-N.pt to this one: E - A for --epoch E --avg A",
    )  # fmt: skip
    p.add_argument(
        "--which", default="model", choices=("model", "average"),
        help="without --avg-with: the last weights, or model_avg, their mean since the start of training",
    )  # fmt: skip
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="a field of the model that is not in the file, such as encoder.heads=4,4,8,4; repeatable",
    )  # fmt: skip
