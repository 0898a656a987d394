"""Stages 5 and 6 for several sets and several decoding methods, and one table of all results."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from maya.decode.head_choice import TrainedHeads
from maya.decode.methods import METHODS, possible_methods
from maya.errors import MayaError
from maya.recipes.decode import decode
from maya.recipes.experiment import Experiment
from maya.recipes.score import score
from maya.score.report import Report
from maya.train.checkpoint import find_checkpoint, load_checkpoint
from maya.train.heads import read_heads

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
    """Decode each of `splits` with each of `methods`, or with every method that the model's trained heads
    allow where that is "all", into `run`/decode/{method}/{split}.

    Raises MayaError for an unknown method, and for one whose head the model lacks or that was never trained.
    """
    if list(methods) == [ALL]:
        methods = methods_of_checkpoint(find_checkpoint(checkpoint or run))
    for method in methods:
        options = dataclasses.replace(experiment.decode, method=method)
        one_method = dataclasses.replace(experiment, decode=options)
        for split in splits:
            decode(one_method, data, run, split=split, into=method, checkpoint=checkpoint, force=force)


def methods_of_checkpoint(path: Path) -> list[str]:
    """The methods that a checkpoint's trained heads allow; prints those that read a head never trained."""
    loaded = load_checkpoint(path)
    model, heads = loaded.model_config, read_heads(loaded)
    heads.best()  # raises MayaError where none was trained
    methods = possible_methods(model, heads)
    everything = TrainedHeads(heads=heads.heads, trained=heads.heads)
    if idle := [method for method in possible_methods(model, everything) if method not in methods]:
        untrained = [head for head in heads.heads if head not in heads.trained]
        verb = "was" if len(untrained) == 1 else "were"
        print(f"decode: without {', '.join(idle)}: {' and '.join(untrained)} {verb} never trained")
    return methods


def score_all(run: Path, *, data: Path | None = None, by_speaker: bool = False, force: bool = False) -> str:
    """Score everything that lies under `run`/decode and print one table of it, which is also written to
    `run`/decode/wer.md. Raises MayaError when nothing has been decoded."""
    top = run / "decode"
    folders = sorted(path.parent.relative_to(top) for path in top.rglob("hyps.jsonl"))
    if not folders:
        raise MayaError(f"{top} holds no hypotheses; run stage 5 (decode) first")
    reports: dict[tuple[str, str], Report] = {}
    for folder in folders:
        scores = score(run, split=str(folder), data=data, by_speaker=by_speaker, force=force, show=False)
        if scores.report is not None:
            reports[(str(folder.parent) if len(folder.parts) > 1 else "", folder.name)] = scores.report
    table = wer_table(reports)
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
