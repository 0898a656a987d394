"""The options of the system that Maya replaces, under the names people have in their scripts.

Each stands for a typed override of the experiment; `maya` and every run.sh take it in place of
`--set FIELD=VALUE`. This table is the only one: egs/stages.sh reads it, too, so a row stays on one
line. An entry without a value is a switch.
"""

import argparse
from collections.abc import Sequence
from typing import Any

ALIASES = {
    "--encoder-lr": "train.encoder_lr",
    "--head-lr": "train.lr",
    "--freeze-encoder-steps": "train.freeze_steps",
    "--ctc-warmup-steps": "model.heads.ctc.ramp_steps",
    "--max-batch-dur": "data.plan.max_seconds",
    "--max-batch-size": "data.plan.max_utterances",
    "--max-tokens-in-batch": "data.plan.max_tokens",
    "--temperature": "data.plan.temperature",
    "--grad-accum": "train.accumulate",
    "--no-lang-embed": "model.language_embedding=false",
}


class _Override(argparse.Action):
    """Adds the override that an option stands for to those of --set, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        override = str(self.const) if self.nargs == 0 else f"{self.const}={values}"
        namespace.overrides = [*namespace.overrides, override]


def add_aliases(parser: argparse.ArgumentParser) -> None:
    """Let `parser`, which has --set with dest "overrides", take every option of ALIASES."""
    group = parser.add_argument_group("options of the earlier system, each short for --set")
    for option, override in ALIASES.items():
        switch = "=" in override
        group.add_argument(
            option, action=_Override, const=override, nargs=0 if switch else None, dest="overrides",
            default=argparse.SUPPRESS, metavar=None if switch else "VALUE", help=override,
        )  # fmt: skip
