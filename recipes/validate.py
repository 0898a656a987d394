"""Checks without preparing, and of what was prepared: what is wrong, by reason and language."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.data.prepare.data_checks import check_data
from maya.data.prepare.examine import examine
from maya.data.report.findings import Findings, findings_text
from maya.data.report.page import Page, read_page, write_page
from maya.data.report.text_table import table
from maya.errors import MayaError
from maya.files import write_json
from maya.recipes.arguments import CORPUS, COUNT, add_experiment, add_json
from maya.recipes.experiment import Experiment, apply_overrides, load_experiment
from maya.recipes.prepare import require_corpus


def arguments(p: argparse.ArgumentParser) -> None:
    add_experiment(p, required=False, default="no language is left out, all options at their defaults")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, help=f"report what prepare would drop or flag: {CORPUS}")
    text = "the folder that `maya prepare` wrote: check its audio again"
    source.add_argument("--data", type=Path, help=text)
    text = "with --data: decode N utterances of each split (default: 200)"
    p.add_argument("--sample", type=COUNT, default=200, metavar="N", help=text)
    p.add_argument("--all", action="store_true", help="with --data: decode every utterance")
    add_json(p, "write the problems as JSON, too")
    p.add_argument("--html", type=Path, metavar="FILE", help="write a report page, too")


def run(args: argparse.Namespace) -> None:
    files = {"json_path": args.json, "html_path": args.html}
    if args.data is not None:
        validate_data(args.data, sample=None if args.all else args.sample, **files)
        return
    if args.experiment:
        experiment = load_experiment(args.experiment, args.overrides)
    else:
        experiment = apply_overrides(Experiment(name="validate"), args.overrides)
    every = not args.experiment and not any(name.startswith("languages=") for name in args.overrides)
    validate_corpus(experiment, args.corpus, languages=() if every else None, **files)


def validate_corpus(
    experiment: Experiment,
    corpus: Path,
    *,
    languages: Sequence[str] | None = None,
    json_path: Path | None = None,
    html_path: Path | None = None,
) -> None:
    """Print everything that `maya prepare` would drop or flag, and write it where asked; nothing else is
    written. languages: those to look at, all if empty; None: the experiment's. MayaError where `maya prepare`
    would refuse the corpus."""
    require_corpus(corpus)
    codes = experiment.languages if languages is None else languages
    examined = examine(corpus, languages=codes, cfg=experiment.prepare)
    page = examined.page()
    print(table(page.summary["languages"], page.summary["splits"]))
    for note in examined.notes:
        print(note)
    _tell(page, page.findings, examined.rows, examined.refusal, json_path, html_path)


def validate_data(
    data: Path,
    *,
    sample: int | None = 200,
    json_path: Path | None = None,
    html_path: Path | None = None,
) -> None:
    """Look at prepared data again (see data_checks) and print what is wrong; MayaError if anything
    is. sample: utterances of each part to decode; all if None."""
    broken = check_data(data, sample=sample)
    findings = Findings()
    findings.add("broken", broken)
    refusal = None
    if broken:
        count = len({problem.id for problem in broken})
        first = broken[0]
        refusal = f"{data}: {count} utterances are not as they were prepared; the first is {first.id!r}: "
        refusal += f"{first.detail}; put the files back, or prepare the data again"
    page = read_page(data, f"Data {data.resolve().name}")
    problems = findings.as_json({})
    page.findings = [*problems, *page.findings]
    utterances = sum(n["utterances"] for n in page.summary["languages"].values())
    _tell(page, problems, utterances, refusal, json_path, html_path)


def _tell(
    page: Page,
    findings: Sequence[Mapping[str, Any]],
    utterances: int,
    refusal: str | None,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    print(findings_text(findings) or "no problems found")
    if json_path is not None:
        result: dict[str, Any] = {"utterances": utterances, "refusal": refusal, "findings": findings}
        write_json(json_path, result)
    if html_path is not None:
        write_page(page, html_path)
    if refusal is not None:
        raise MayaError(refusal)
    print(f"{utterances} utterances: OK")
