"""Aliases of --set FIELD=VALUE: option names of the system that Maya replaces, for existing scripts.

`maya train`, `maya ready` and every run.sh accept them. An entry may hold several overrides; the last one
gets the value of the option, and a last one that contains `=` is a switch. egs/stages.sh reads this table
too, so each entry stays on one line.
"""

import argparse
from collections.abc import Sequence
from typing import Any

ALIASES = {
    "--encoder-lr": "train.encoder_lr",
    "--head-lr": "train.lr",
    "--freeze-encoder-steps": "train.freeze=encoder train.freeze_steps",
    "--ctc-warmup-steps": "model.heads.ctc.ramp_steps",
    "--max-batch-dur": "data.plan.max_seconds",
    "--max-batch-size": "data.plan.max_utterances",
    "--max-tokens-in-batch": "data.plan.max_tokens",
    "--temperature": "data.plan.temperature",
    "--grad-accum": "train.accumulate",
    "--no-lang-embed": "model.language_embedding=false",
}


def is_switch(option: str) -> bool:
    """Whether an option of ALIASES takes no value."""
    return "=" in ALIASES[option].split()[-1]


def overrides_of(option: str, value: Any = None) -> list[str]:
    """The overrides that an option of ALIASES stands for."""
    *earlier, last = ALIASES[option].split()
    return [*earlier, last if is_switch(option) else f"{last}={value}"]


class _Override(argparse.Action):
    """Append the override of an option to those of --set, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.overrides = [*namespace.overrides, *overrides_of(str(self.const), values)]


def add_aliases(parser: argparse.ArgumentParser) -> None:
    """Add every option of ALIASES to a `parser` that has --set with dest "overrides"."""
    group = parser.add_argument_group("options of the earlier system, each short for --set")
    for option, override in ALIASES.items():
        switch = is_switch(option)
        group.add_argument(
            option, action=_Override, const=option, nargs=0 if switch else None, dest="overrides",
            default=argparse.SUPPRESS, metavar=None if switch else "VALUE", help=override,
        )  # fmt: skip
