"""Stages 5 and 6 of a corpus with several sets and a model with several ways to decode; one table of all."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from maya.config import override
from maya.decode.head_choice import TrainedHeads
from maya.errors import MayaError
from maya.models.text_heads import NAMES
from maya.recipes.decode import decode
from maya.recipes.experiment import DecodeConfig, Experiment
from maya.recipes.score import score
from maya.recipes.search import NEEDS, check_heads
from maya.score.report import Report
from maya.train.checkpoint import find_checkpoint, load_checkpoint
from maya.train.heads import read_heads

METHODS: tuple[str, ...] = get_args(get_type_hints(DecodeConfig)["method"])
ALL = "all"


def decode_all(
    experiment: Experiment,
    data: Path,
    run: Path,
    *,
    splits: Sequence[str],
    methods: Sequence[str],
    checkpoint: Path | None = None,
    force: bool = False,
) -> None:
    """Decode each of `splits` with each of `methods`, or with all that the model's trained heads allow where
    that is "all", into `run`/decode/{method}/{split}.

    Raises MayaError for an unknown method, and for one whose head the model lacks or that was never trained.
    """
    if list(methods) == [ALL]:
        methods = possible_methods(find_checkpoint(checkpoint or run))
    if unknown := [name for name in methods if name not in METHODS]:
        raise MayaError(f"there is no decode.method {unknown[0]!r}; there are {', '.join(METHODS)}")
    for method in methods:
        mine = dataclasses.replace(experiment, decode=dataclasses.replace(experiment.decode))
        override(mine, f"decode.method={method}")
        for split in splits:
            decode(mine, data, run, split=split, into=method, checkpoint=checkpoint, force=force)


def possible_methods(path: Path) -> list[str]:
    """The methods that a checkpoint's trained heads allow; prints those that need a head never trained."""
    loaded = load_checkpoint(path)
    heads, transducer = read_heads(loaded), getattr(loaded.model_config, "transducer", "none")
    heads.best()  # raises MayaError where none was trained
    methods = methods_of(heads, transducer)
    everything = TrainedHeads(heads=heads.heads, trained=heads.heads)
    if idle := [method for method in methods_of(everything, transducer) if method not in methods]:
        untrained = " and ".join(f"the {NAMES[head]}" for head in heads.heads if head not in heads.trained)
        print(f"decode: without {', '.join(idle)}: {untrained} was never trained")
    return methods


def methods_of(heads: TrainedHeads, transducer: str) -> list[str]:
    """The methods that trained heads allow; `transducer` is the model's kind of it."""
    return [method for method in NEEDS if can_decode(heads, method, transducer)]


def can_decode(heads: TrainedHeads, method: str, transducer: str) -> bool:
    """Whether a model has the trained heads that a method asks for. Modified beam search knows no durations:
    `transducer` is the model's kind of it, "tdt" has them."""
    try:
        check_heads(heads, method)
    except MayaError:
        return False
    return method != "modified_beam" or transducer != "tdt"


def score_all(run: Path, *, data: Path | None = None, by_speaker: bool = False, force: bool = False) -> str:
    """Score everything that lies under `run`/decode and print the table of all of it, which is also left in
    `run`/decode/wer.md. MayaError when nothing has been decoded."""
    top = run / "decode"
    found = sorted(path.parent.relative_to(top) for path in top.rglob("hyps.jsonl"))
    if not found:
        raise MayaError(f"{top} holds no hypotheses; run stage 5 (decode) first")
    reports = {
        folder: score(run, split=str(folder), data=data, by_speaker=by_speaker, force=force, show=False)
        for folder in found
    }
    table = wer_table({(str(f.parent) if len(f.parts) > 1 else "", f.name): r for f, r in reports.items()})
    (top / "wer.md").write_text(table)
    print(table, end="")
    print(f"WER %, 95 % interval by bootstrap; reports and errors: {top}/*/*/{{report.html,errors.txt}}")
    return table


def wer_table(reports: dict[tuple[str, str], Report]) -> str:
    """Markdown, by (method, set): a row for each method with the WER in % of each set and its interval. Rates
    are macro averages where there are several languages."""
    sets = sorted({name for _, name in reports})
    methods = [m for m in ("", *METHODS) if m in {method for method, _ in reports}]
    methods += sorted({method for method, _ in reports} - set(methods))
    lines = ["| method | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]
    for method in methods:
        cells = [_cell(reports.get((method, name))) for name in sets]
        lines.append(f"| {method or 'as configured'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(report: Report | None) -> str:
    if report is None:
        return ""
    spread = report.macro_wer_interval
    return f"{100 * report.macro_wer:.2f} [{100 * spread.low:.2f}, {100 * spread.high:.2f}]"
